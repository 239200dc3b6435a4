"""Recipes: complete, immutable, and refused where they contradict themselves."""

import pytest
from pydantic import ValidationError

from victorian.config import Recipe, SamplingParameters, Section, bounds, differences, read_recipe
from victorian.errors import ConfigError
from victorian.recipes import GPT2_124M, RECIPES, TINY, find_recipe
from victorian.service.protocol import CompletionRequest


def test_gpt2_124m_is_the_papers_configuration() -> None:
    model, training = GPT2_124M.model, GPT2_124M.training
    assert (model.layers, model.channels, model.heads, model.context) == (12, 768, 12, 2048)
    assert (model.vocabulary, model.dropout) == (50_304, 0.2)
    assert training.tokens_per_step == 524_288
    assert training.precision_gpu == "fp16"
    optimizer, schedule = GPT2_124M.optimizer, GPT2_124M.schedule
    assert (optimizer.name, optimizer.learning_rate, optimizer.weight_decay, optimizer.clip) == ("adamw", 1e-4, 0.01, 1)
    assert (schedule.warmup_steps, schedule.decay) == (100, "cosine")
    assert GPT2_124M.tokens.tokens_per_shard == 100_000_000


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_every_recipe_survives_its_json(recipe: Recipe) -> None:
    assert read_recipe(recipe.model_dump_json(), "x") == recipe


def test_an_unknown_recipe_is_answered_with_those_there_are() -> None:
    with pytest.raises(
        ConfigError, match="no recipe is called 'huge'; there are tiny, small, small-tune, gpt2-124m, gpt2-124m-muon"
    ):
        find_recipe("huge")


def with_changes(**sections: dict[str, object]) -> Recipe:
    value = TINY.model_dump()
    for section, changes in sections.items():
        value[section].update(changes)
    return Recipe.model_validate(value)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model": {"heads": 7}}, "256 channels cannot be shared by 7 heads"),
        ({"tokens": {"ranks": 9000}}, "8256 rows cannot hold 9000 ranks"),
        ({"training": {"tokens_per_step": 4097}}, "not whole windows of 256"),
        ({"training": {"steps": 5}}, "a budget in steps or in seconds"),
        ({"training": {"seconds": None}}, "a budget in steps or in seconds"),
        ({"model": {"dropuot": 0.1}}, "Extra inputs are not permitted"),
        ({"model": {"dropout": 1.0}}, "less than 1"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused_with_the_reason(changes: dict[str, dict[str, object]], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        with_changes(**changes)


def test_a_recipe_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        TINY.name = "other"


def test_differences_name_the_fields() -> None:
    other = with_changes(model={"layers": 5}, training={"seed": 2})
    assert differences(other, TINY) == ["model.layers: 5, not 4", "training.seed: 2, not 1337"]
    assert differences(TINY, TINY) == []


def test_sampling_has_the_ranges_and_defaults_of_the_product() -> None:
    assert bounds("temperature") == (0.1, 2.0)
    assert bounds("top_k") == (0, 100)
    assert bounds("top_p") == (0, 1)
    defaults = SamplingParameters()
    assert (defaults.temperature, defaults.top_k, defaults.top_p, defaults.repetition_penalty) == (1.3, 50, 0.95, 1.2)


@pytest.mark.parametrize(
    "changes",
    [{"temperature": 0.05}, {"temperature": 2.1}, {"top_k": 101}, {"top_p": 1.5}, {"max_tokens": 0}, {"stop": ("",)},
     {"stop": ("a", "b", "c", "d", "e")}, {"seed": -1}, {"temperature": float("nan")}],
)  # fmt: skip
def test_sampling_out_of_range_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SamplingParameters.model_validate(changes)


def test_a_damaged_recipe_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"run/recipe.json does not hold a recipe"):
        read_recipe("{", "run/recipe.json")


@pytest.mark.parametrize(
    "value",
    [
        {"stop": [1] * 100_000},
        {"logit_bias": {f"x{i}": 1 for i in range(100_000)}},
        {f"unknown{i}": 1 for i in range(100_000)},
    ],
    ids=["stop", "logit_bias", "names"],
)
@pytest.mark.parametrize("kind", [SamplingParameters, CompletionRequest])
def test_a_hundred_thousand_mistakes_are_one_problem(kind: type[Section], value: dict[str, object]) -> None:
    """Each that is told of takes time, and others wait for it."""
    with pytest.raises(ValidationError) as caught:
        kind.model_validate(value)
    assert caught.value.error_count() <= 2
