"""The recipes by name. Each after the first says only in what it differs."""

from victorian.config import (
    ModelConfig,
    OptimizerConfig,
    Recipe,
    ScheduleConfig,
    TokensConfig,
    TrainingConfig,
)
from victorian.errors import ConfigError

GPT2_124M = Recipe(
    name="gpt2-124m",
    training=TrainingConfig(
        steps=5_530,  # one pass over PG19's 2.9 billion tokens
        precision_gpu="fp16",
    ),
)
"""The paper's configuration: GPT-2 small with a context of 2048, AdamW at 1e-4, 524,288 tokens a step."""

TINY = Recipe(
    name="tiny",
    model=ModelConfig(layers=4, channels=256, heads=4, context=256, vocabulary=8_256, dropout=0.0),
    tokens=TokensConfig(ranks=8_192, tokens_per_shard=4_000_000),
    optimizer=OptimizerConfig(name="muon", learning_rate=6e-3, matrix_learning_rate=0.02),
    schedule=ScheduleConfig(warmup_steps=5, decay="linear", hold=0.4),
    training=TrainingConfig(
        tokens_per_step=4_096,
        sequences_per_microbatch=16,
        seconds=150,
        validation_every_steps=40,
        validation_tokens=8_192,
        checkpoint_every_steps=100,
    ),
)
"""A laptop, minutes: 5.3M parameters over the first 8,192 ranks, so that the embedding does not drown it."""

SMALL = TINY.model_copy(
    update={
        "name": "small",
        "model": ModelConfig(layers=6, channels=320, heads=5, context=512, vocabulary=8_256, dropout=0.0),
        "schedule": ScheduleConfig(warmup_steps=20, decay="linear", hold=0.4),
        "training": TINY.training.model_copy(
            update={"tokens_per_step": 8_192, "seconds": 3_600, "validation_every_steps": 50}
        ),
    }
)
"""A laptop, an hour: 10.2M parameters; quality is measured on it."""

SMALL_TUNE = SMALL.model_copy(
    update={
        "name": "small-tune",
        "optimizer": OptimizerConfig(name="muon", learning_rate=6e-4, matrix_learning_rate=2e-3),
        "schedule": ScheduleConfig(warmup_steps=5, decay="linear"),
        "training": SMALL.training.model_copy(
            update={
                "tokens_per_step": 4_096,
                "sequences_per_microbatch": 8,
                "seconds": 75,
                "validation_every_steps": 25,
            }
        ),
    }
)
"""A laptop, a minute or two: `small` once more, begun with trained weights, on books of one's own."""

GPT2_124M_MUON = GPT2_124M.model_copy(
    update={
        "name": "gpt2-124m-muon",
        "model": GPT2_124M.model.model_copy(update={"dropout": 0.0}),
        "optimizer": OptimizerConfig(name="muon", learning_rate=3e-3, matrix_learning_rate=0.02),
        "schedule": ScheduleConfig(warmup_steps=100, decay="linear", hold=0.4),
    }
)
"""The paper's network, trained as `tiny` and `small` are, where that reaches the paper recipe's loss in a part of its
tokens (docs/benchmarks.md). AdamW's rate is lower, as the network is wider. At this size it was not tried."""

RECIPES = {recipe.name: recipe for recipe in (TINY, SMALL, SMALL_TUNE, GPT2_124M, GPT2_124M_MUON)}


def find_recipe(name: str) -> Recipe:
    """The recipe called `name`; ConfigError with the names that exist for any other."""
    if name not in RECIPES:
        raise ConfigError(f"no recipe is called {name!r}; there are {', '.join(RECIPES)}")
    return RECIPES[name]
