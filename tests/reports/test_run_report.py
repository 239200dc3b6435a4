"""The page about training runs: their curves, what differs, what they wrote; nothing that runs."""

import re
from pathlib import Path

import pytest

from tests.conftest import TOY
from tests.training.test_monitors import LINE_ENDS, record
from victorian.errors import TrainingError
from victorian.reports.run_report import MOST_RUNS, render_run_report, write_charts
from victorian.storage import open_storage
from victorian.training.monitors import Journal


def write_run(folder: Path, seed: int = 1, **changes: object) -> str:
    """A run of ten steps that was never trained."""
    run = open_storage(folder)
    recipe = TOY.model_copy(update={"training": TOY.training.model_copy(update={"seed": seed})})
    run.write("recipe.json", recipe.model_dump_json().encode())
    journal = Journal(run)
    journal.begin(0)
    for step in range(1, 11):
        judged = (
            {"validation_loss": 5.0 - 0.1 * step * seed, "sample": "<script>alert(1)</script>"} if step % 5 == 0 else {}
        )
        journal.step(record(step, **{**judged, **changes}))
    journal.close()
    return run.uri


def words(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page))


def test_one_run_is_told_in_figures_and_curves(tmp_path: Path) -> None:
    page = render_run_report([write_run(tmp_path / "first")])
    said = words(page)
    for expected in ("first", "Validation loss 4.000 nats a token", "finished", "MFU", "50%", "Perplexity a token"):
        assert expected in said
    assert page.count("<figure>") == 5
    assert page.count("<path") > 20
    assert "What differs" not in said


@pytest.mark.parametrize(("loss", "perplexity"), [(2.0, "7.39"), (709.8, "over 1e308")])
def test_a_loss_of_any_size_has_its_perplexity_told(tmp_path: Path, loss: float, perplexity: str) -> None:
    said = words(render_run_report([write_run(tmp_path, validation_loss=loss)]))
    assert f"Perplexity a token {perplexity} validation" in said


def test_runs_side_by_side_are_told_apart_and_their_recipes_compared(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / "first", seed=1), write_run(tmp_path / "second", seed=2, loss_scale=65536.0)]
    page = render_run_report(runs)
    said = words(page)
    assert "The lowest validation loss is second's: 3.000" in said
    assert "training.seed 1 2" in said
    assert page.count("<figure>") == 6  # the loss scale too, which only one of them has
    assert "var(--line-0)" in page
    assert "var(--line-1)" in page


def test_what_the_model_wrote_is_text_and_never_markup(tmp_path: Path) -> None:
    page = render_run_report([write_run(tmp_path / "<b>run</b>")])
    assert "<script" not in page
    assert "<b>" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "default-src 'none'" in page
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)


def test_a_sample_with_line_ends_of_unicode_is_shown(tmp_path: Path) -> None:
    assert "The old house stood." in render_run_report([write_run(tmp_path, sample=LINE_ENDS)])


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / place / "run") for place in ("a", "b")]
    said = words(render_run_report(runs))
    assert all(run in said for run in runs)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="is not a run with steps in it"):
        render_run_report([str(tmp_path / "nothing")])
    with pytest.raises(TrainingError, match=f"expected 1 to {MOST_RUNS} runs, got {MOST_RUNS + 1}"):
        render_run_report([str(tmp_path)] * (MOST_RUNS + 1))


def test_the_pages_are_put_beside_the_run(tmp_path: Path) -> None:
    write_charts(write_run(tmp_path), "first")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert "Training report" in (tmp_path / "report.html").read_text()
