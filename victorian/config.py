"""Frozen settings, and `Recipe`: the one value that describes a run from books to artifact.

Knows no hardware and no files. The same types serve the command line (flags are derived from them), HTTP,
`serve_config.yaml` and the JSON that is stored beside every run and artifact.
"""

import json
import os
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from victorian.errors import ConfigError

GPT2_RANKS = 50_256
"""Ranks of the whole GPT-2 encoding; `<|endoftext|>` is the next id."""

DEFAULT_URL = "http://127.0.0.1:8000"
"""Where a service is looked for unless VICTORIAN_URL or a flag says otherwise."""


class Section(BaseModel):
    """A frozen group of settings that refuses unknown names and documents its fields by their docstrings."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class ModelConfig(Section):
    """The shape of the network."""

    layers: int = Field(12, ge=1)
    """Transformer blocks."""
    channels: int = Field(768, ge=1)
    """Width of the residual stream."""
    heads: int = Field(12, ge=1)
    """Attention heads; they share the channels evenly."""
    context: int = Field(2048, ge=2)
    """Longest window the network sees, in tokens."""
    vocabulary: int = Field(50_304, ge=257)
    """Rows of the embedding: the encoding's tokens, padded for speed."""
    dropout: float = Field(0.2, ge=0, lt=1)
    """Share of activations dropped while training."""

    @property
    def head_dim(self) -> int:
        return self.channels // self.heads


class TokensConfig(Section):
    """How text becomes tokens and shards."""

    ranks: int = Field(GPT2_RANKS, ge=256, le=GPT2_RANKS)
    """The first N ranks of the GPT-2 encoding that are used; `<|endoftext|>` is then id N."""
    tokens_per_shard: int = Field(100_000_000, ge=1024)
    """Tokens in every shard of a split but the last."""


class OptimizerConfig(Section):
    """What turns gradients into steps."""

    name: Literal["adamw", "muon"] = "adamw"
    """adamw for all parameters, or muon for the blocks' matrices with adamw for the rest."""
    learning_rate: float = Field(1e-4, gt=0)
    """Peak learning rate of AdamW."""
    matrix_learning_rate: float = Field(0.02, gt=0)
    """Peak learning rate of Muon; unused by adamw."""
    weight_decay: float = Field(0.01, ge=0)
    """Decoupled weight decay, on matrices only."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """AdamW's decay of the first moment."""
    beta2: float = Field(0.95, ge=0, lt=1)
    """AdamW's decay of the second moment."""
    clip: float = Field(1.0, gt=0)
    """Largest norm of the whole gradient."""


class ScheduleConfig(Section):
    """How the learning rate rises and falls."""

    warmup_steps: int = Field(100, ge=0)
    """Steps of linear rise from zero to the peak."""
    decay: Literal["cosine", "linear"] = "cosine"
    """Shape of the fall after the warm-up."""
    hold: float = Field(0.0, ge=0, lt=1)
    """Share of the budget during which the peak is held before the fall begins."""
    final_fraction: float = Field(0.0, ge=0, le=1)
    """Share of the peak that is left at the end."""


class TrainingConfig(Section):
    """How much is trained, in what portions, and how often it is looked at."""

    tokens_per_step: int = Field(524_288, ge=1)
    """Tokens of one optimizer step over all workers."""
    sequences_per_microbatch: int = Field(8, ge=1)
    """Windows one worker runs through the network at once; the rest is gradient accumulation."""
    steps: int | None = Field(None, ge=1)
    """Optimizer steps to take. A run by steps can be resumed exactly."""
    seconds: float | None = Field(None, gt=0)
    """Seconds of training to take, instead of steps; the schedule follows the clock."""
    precision_gpu: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Autocast type on a GPU; auto is bf16 where the device has it, else fp16. fp16 scales the loss."""
    precision_cpu: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Autocast type on a CPU; auto is bf16 where the processor has it, else fp32."""
    validation_every_steps: int = Field(250, ge=1)
    """Steps between two looks at the validation loss."""
    validation_tokens: int = Field(262_144, ge=1)
    """Tokens of the validation split that one look reads."""
    checkpoint_every_steps: int = Field(250, ge=1)
    """Steps between two checkpoints."""
    seed: int = Field(1337, ge=0)
    """Seed of initial weights, order of windows, and dropout."""


class Recipe(Section):
    """A run from books to artifact, complete and immutable."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")
    """Name of the recipe that this one is or was derived from."""
    model: ModelConfig = ModelConfig()
    tokens: TokensConfig = TokensConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    training: TrainingConfig = TrainingConfig()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        model, training = self.model, self.training
        if model.channels % model.heads:
            raise ValueError(f"{model.channels} channels cannot be shared by {model.heads} heads; use a divisor")
        if model.vocabulary < self.tokens.ranks + 1:
            raise ValueError(
                f"a vocabulary of {model.vocabulary} rows cannot hold {self.tokens.ranks} ranks and "
                f"<|endoftext|>; use at least {self.tokens.ranks + 1} rows"
            )
        if training.tokens_per_step % model.context:
            raise ValueError(
                f"{training.tokens_per_step} tokens a step are not whole windows of {model.context} tokens; "
                f"use a multiple of {model.context}"
            )
        if (training.steps is None) == (training.seconds is None):
            raise ValueError("give a budget in steps or in seconds, one of the two")
        return self

    @property
    def sequences_per_step(self) -> int:
        """Windows of one optimizer step over all workers."""
        return self.training.tokens_per_step // self.model.context


class SamplingParameters(Section):
    """How the next token is drawn."""

    temperature: float = Field(1.3, ge=0.1, le=2.0)
    """Flattens (above 1) or sharpens (below 1) the distribution; 0.1 to 2.0."""
    top_k: int = Field(50, ge=0, le=100)
    """Only the k likeliest tokens may be drawn; 0 to 100, 0 is off."""
    top_p: float = Field(0.95, ge=0, le=1)
    """Only the likeliest tokens that together hold this probability may be drawn; 0 to 1, 1 is off."""
    repetition_penalty: float = Field(1.2, ge=1, le=2)
    """Makes tokens that already stand in prompt or output less likely; 1 to 2, 1 is off."""
    max_tokens: int = Field(256, ge=1, le=32_768)
    """Tokens to generate at most."""
    seed: int | None = Field(None, ge=0, lt=2**63)
    """The same seed gives the same text; without one, a seed is drawn."""
    stop: tuple[Annotated[str, Field(min_length=1, max_length=200)], ...] = Field((), max_length=4)
    """Texts that end the generation; they are not part of it. At most 4."""


def bounds(parameter: str) -> tuple[float, float]:
    """The smallest and largest value of a number among the sampling parameters."""
    metadata = SamplingParameters.model_fields[parameter].metadata
    low = next(float(item.ge) for item in metadata if hasattr(item, "ge"))
    return low, next(float(item.le) for item in metadata if hasattr(item, "le"))


class EngineConfig(Section):
    """How one engine shares one model among its requests."""

    max_running: int = Field(16, ge=1, le=1024)
    """Requests that decode side by side; each holds a row of the KV cache."""
    max_waiting: int = Field(64, ge=0)
    """Requests that may wait for a row; one more is refused."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Type of weights and cache."""
    threads: int | None = Field(None, ge=1)
    """CPU threads of the network; by default every core."""


class ServiceConfig(Section):
    """What a service serves, and where: the arguments of `serve_config.yaml`."""

    artifact: str = "runs"
    """A model directory, or a folder of runs, whose newest artifact is taken."""
    model_name: str | None = Field(None, min_length=1, max_length=100)
    """Name that clients see; by default the recipe's."""
    engine: EngineConfig = EngineConfig()


def first_problem(error: ValidationError) -> str:
    """The first of pydantic's complaints as one line: where, what was expected, what came."""
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ")
    if not where:
        return message
    return f"{where}: {message}, got {problem['input']!r}"[:500]


def read_recipe(text: str | bytes, origin: str) -> Recipe:
    """The recipe stored as JSON in `text`; `origin` names the place for the ConfigError of a bad one."""
    try:
        return Recipe.model_validate_json(text)
    except ValidationError as error:
        raise ConfigError(f"{origin} does not hold a recipe: {first_problem(error)}") from error


def differences(ours: Section, theirs: Section) -> list[str]:
    """Fields in which two values of one type differ, as `path: ours, not theirs`."""

    def flat(value: Any, path: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            return {path: value}
        return {k: v for name, item in value.items() for k, v in flat(item, f"{path}.{name}".strip(".")).items()}

    left, right = flat(ours.model_dump(), ""), flat(theirs.model_dump(), "")
    return [
        f"{path}: {json.dumps(left[path])}, not {json.dumps(right[path])}" for path in left if left[path] != right[path]
    ]


def service_url() -> str:
    """The service that clients talk to: VICTORIAN_URL, else this machine's port 8000."""
    return os.environ.get("VICTORIAN_URL", DEFAULT_URL)
