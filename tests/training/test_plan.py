"""What a plan says before a run, against what a run really uses."""

from pathlib import Path

import pytest
import torch

from tests.conftest import TOY
from tests.training.test_loop import split
from victorian.config import ModelConfig, Recipe
from victorian.errors import ConfigError, TrainingError
from victorian.model.gpt2 import GPT
from victorian.recipes import GPT2_124M, SMALL, TINY
from victorian.reports.plan_text import describe_plan
from victorian.training import loop
from victorian.training.loop import train
from victorian.training.plan import (
    HARDWARE,
    find_hardware,
    flops_per_token,
    largest_microbatch,
    make_plan,
    memory_of,
    parameter_count,
)
from victorian.training.trial import run_trial
from victorian.training.worker import LocalWorker


@pytest.mark.parametrize("recipe", [TINY, SMALL, GPT2_124M])
def test_parameters_are_counted_without_making_them(recipe: Recipe) -> None:
    assert parameter_count(recipe.model) == GPT(recipe.model).parameter_count()


def test_flops_are_those_of_the_matrix_products() -> None:
    model = ModelConfig(layers=3, channels=8, heads=2, context=16, vocabulary=300)
    linear = 3 * (8 * 24 + 8 * 8 + 2 * 8 * 32) + 300 * 8  # multiplications of a token's forward pass
    attention = 3 * 2 * 16 * 8  # against every key, and with every value
    assert flops_per_token(model) == 3 * 2 * (linear + attention)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_predicted_activations_are_what_autograd_keeps(precision: str, dropout: float) -> None:
    value = TINY.model_dump()
    value["model"] |= {"layers": 3, "context": 128, "dropout": dropout}
    value["training"] |= {"precision_cpu": precision, "sequences_per_microbatch": 4}
    recipe = Recipe.model_validate(value)
    trial = run_trial(recipe, steps=1)
    expected = memory_of(recipe, 4, 4 if precision == "fp32" else 2, on_cpu=True)
    gradients = 4 * (4 * 128 + recipe.model.vocabulary) * recipe.model.channels  # the head's, kept as activations are
    assert trial.activations == pytest.approx(expected.activations + gradients, rel=0.02)
    assert trial.tokens_per_second > 0
    assert 0 < trial.mfu < 1.5


def test_the_papers_run_is_planned_for_the_papers_machine() -> None:
    plan = make_plan(GPT2_124M, HARDWARE["p4d.24xlarge"].flops, devices=8)
    assert plan.tokens == 5_530 * 524_288
    assert plan.seconds == pytest.approx(plan.tokens / plan.tokens_per_second)
    text = "\n".join(describe_plan(GPT2_124M, list(HARDWARE.values()), price_per_hour=32.77))
    for word in ("125,262,336 parameters", "1 x p4d.24xlarge (8 devices)", "to pay", "2.9B tokens"):
        assert word in text, text


@pytest.mark.parametrize("tokens_per_step", [524_288, 4_096])
def test_the_memory_that_is_told_is_that_of_the_accelerators_and_windows_that_are_named(tokens_per_step: int) -> None:
    value = GPT2_124M.model_dump()
    value["training"]["tokens_per_step"] = tokens_per_step
    recipe = Recipe.model_validate(value)
    sequences = min(8, tokens_per_step // 2048)
    total = memory_of(recipe, sequences, compute_bytes=2, on_cpu=False).total / 2**30
    (told,) = [line for line in describe_plan(recipe, list(HARDWARE.values())) if line.startswith("memory of a device")]
    assert told.startswith(f"memory of a device at {sequences} x 2048 tokens: ")
    assert told.endswith(f"; {total:.2f} GiB")


def test_more_windows_take_more_memory_and_the_most_that_fit_are_found() -> None:
    sizes = [memory_of(GPT2_124M, n).total for n in (1, 2, 8)]
    assert sizes == sorted(sizes)
    fits = largest_microbatch(GPT2_124M, 40 * 2**30)
    assert memory_of(GPT2_124M, fits).total <= 40 * 2**30 < memory_of(GPT2_124M, fits + 1).total
    assert largest_microbatch(GPT2_124M, 2**20) == 0


def test_a_microbatch_that_cannot_fit_is_refused_with_one_that_can(toy_data: Path, tmp_path: Path) -> None:
    value = GPT2_124M.model_dump()
    value["training"] |= {"tokens_per_step": 2**27, "sequences_per_microbatch": 65_536, "precision_cpu": "fp32"}
    value["tokens"] |= {"ranks": 512}
    stream = split(toy_data, "train")
    with pytest.raises(
        TrainingError, match=r"65536 windows of 2048 tokens at once take about .* GiB, and there are"
    ) as told:
        train(Recipe.model_validate(value), stream, None, LocalWorker(tmp_path))
    fits = int(str(told.value).rpartition(" ")[2])
    assert 0 < fits < 65_536


def test_memory_that_runs_out_in_a_step_is_told_with_a_number_that_fits(
    toy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(*_: object) -> tuple[float, float]:
        torch.empty(2**60)  # the allocator's own words
        raise AssertionError

    monkeypatch.setattr(loop, "take_step", step)
    with pytest.raises(TrainingError, match=r"4 windows of 64 tokens .*; use --training\.sequences-per-microbatch 3"):
        train(TOY, split(toy_data, "train"), None, LocalWorker(tmp_path))


def test_a_machine_that_nobody_knows_is_refused_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match=r"no machine called 'x1' is known; there are p4d\.24xlarge"):
        find_hardware("x1")
