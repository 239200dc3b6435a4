"""One live line on a terminal, and nothing where nobody watches."""

import io

import pytest
from rich.console import Console

from tests.training.test_monitors import record
from victorian.reports.progress import live_line, watch_preparing, watch_training
from victorian.tokens.progress import PrepareProgress

HALF = PrepareProgress(
    done=0.5, books=10, books_total=20, tokens=1_234_567, tokens_per_second=98_765.4, seconds_left=61.0
)


def shown(terminal: bool) -> str:
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=120)
    with live_line(console, "tokens", plain_seconds=None) as show:
        watch_preparing(show)(HALF)
    return file.getvalue()


def test_a_terminal_sees_books_tokens_speed_and_time_left() -> None:
    line = shown(terminal=True)
    for words in ("50%", "10 of 20 books", "1,234,567 tokens", "98,765 tokens/s", "1:01 left"):
        assert words in line


def test_where_there_is_no_terminal_it_is_quiet() -> None:
    assert shown(terminal=False) == ""


@pytest.mark.parametrize("width", [80, 160])
def test_a_run_is_told_on_one_line_of_a_terminal_of_any_width(width: int) -> None:
    file = io.StringIO()
    now = record(5, validation_loss=4.25, overflows=3, mfu=0.37)
    with live_line(Console(file=file, force_terminal=True, width=width), "training") as show:
        watch_training(show, price_per_hour=3600)(now)
    line = file.getvalue()
    expected = ["50%", "0:05 left, 5.00 to pay", "step 5", "loss 4.500"]
    if width == 160:
        expected += ["validation 4.250", "100 tokens/s", "MFU 37%", "500 tokens", "3 overflows"]
    for words in expected:
        assert words in line
    assert line.count("\n") <= 1  # the one that ends it


def test_plain_lines_are_not_broken() -> None:
    file = io.StringIO()
    with live_line(Console(file=file, width=40), "training", plain_seconds=0.0) as show:
        watch_training(show)(record(5, mfu=0.37))
    assert file.getvalue().count("\n") == 1
