"""One live line on a terminal, and nothing where nobody watches."""

import io

from rich.console import Console

from victorian.reports.progress import live_line, watch_preparing
from victorian.tokens.preparation import PrepareProgress

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
