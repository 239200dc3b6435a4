"""Claim: the writing desk adds little to the service's own time, answers while it streams, and bears a novel.

Nothing to compare it with: budgets instead, each named in its row. The service runs in this process, with the model
that comes with the package or another artifact, the desk in its own, and the browser is a Chromium without a window.

A first token counts from the click to the frame that shows it, less the service's own time to it as its metrics have
it. A key counts from its press to the frame after it: while 2,000 tokens come at 50 a second it moves the caret, since
the sheet is not typed on meanwhile, and on a novel of 100,000 words, a half of them the model's, it types. A novel is
open when the page counts its words.

    .venv/bin/python benchmarks/desk.py [--artifact pretrained] [--runs 3] [--tokens 2000]
"""

import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

import httpx2
import tyro
from browsing import chromium, desk_before, serving
from measure import note, print_header, print_machine, print_row, spread
from playwright.sync_api import Browser, Locator, Page, expect

from victorian.client.desk.manuscript import Manuscript, Piece
from victorian.client.desk.session import Session, saved
from victorian.corpus.sources import SAMPLE, find_books, read_many

BETWEEN_KEYS_SECONDS = 0.25
NOVEL_WORDS = 100_000
FIRST_TOKEN = re.compile(r"^victorian:time_to_first_token_seconds_sum\S* (\S+)$", re.MULTILINE)

WATCH = """(marks) => {
    const shown = (then) => requestAnimationFrame(() => setTimeout(() => then(performance.now())));
    window.keys = [];
    window.touched = [];
    window.first = null;
    addEventListener("keydown", ({timeStamp}) => shown((at) => window.keys.push(at - timeStamp)), true);
    addEventListener("click", (event) => {
        if (!event.target.closest?.(".st-key-continue")) return;
        const look = () => {
            if (marks.querySelector("[data-index]")) shown((at) => (window.first = at - event.timeStamp));
            else requestAnimationFrame(look);
        };
        look();
    }, true);
}"""


class Visit:
    """A desk in a session of its own."""

    def __init__(self, page: Page, address: str, service: str) -> None:
        self.page = page
        self._service = service
        page.goto(address)
        self.sheet = page.get_by_label("Manuscript", exact=True)
        self.sheet.wait_for(timeout=60_000)
        self.caption("0 words").wait_for(timeout=60_000)
        page.locator(".marks").evaluate(WATCH)

    def caption(self, words: str | re.Pattern[str]) -> Locator:
        return self.page.get_by_test_id("stCaptionContainer").filter(has_text=words)

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name, exact=True)

    def set_length(self, tokens: int) -> None:
        length = self.page.get_by_label("Length", exact=True)
        length.fill(str(tokens))
        length.press("Enter")

    def served(self) -> float:
        """Milliseconds that the service took to first tokens, all together."""
        found = FIRST_TOKEN.search(httpx2.get(f"{self._service}/metrics").text)
        return 1000 * float(found[1]) if found else 0.0

    def first_token(self) -> tuple[float, float]:
        """Milliseconds from the click until the desk's first token is seen: less the service's own, and with them."""
        before = self.served()
        self.page.evaluate("window.first = null")
        self.button("Continue").click()
        first = self.page.wait_for_function("window.first", timeout=60_000).json_value()
        own = self.served() - before
        return float(first) - own, float(first)

    def ended(self) -> None:
        self.caption(re.compile("words .*reached|words .*came")).wait_for(timeout=120_000)
        expect(self.button("Continue")).to_be_enabled()

    def keys(self, key: str, until: Callable[[], bool]) -> list[float]:
        """Milliseconds from each press to the frame after it."""
        self.page.evaluate("window.keys = []")
        while not until():
            self.sheet.press(key)
            self.page.wait_for_timeout(1000 * BETWEEN_KEYS_SECONDS)
        found: list[float] = self.page.evaluate("window.keys")
        return found


@contextmanager
def visited(browser: Browser, address: str, service: str) -> Iterator[Visit]:
    context = browser.new_context(viewport={"width": 1280, "height": 860})
    yield Visit(context.new_page(), address, service)
    context.close()


def novel(folder: Path) -> tuple[Path, int]:
    """A saved session and its words: our own sample again and again, its paragraphs by either hand in turn."""
    texts = [data.decode() for _, data in read_many(find_books(SAMPLE).books)]
    paragraphs = [f"{paragraph}\n\n" for text in texts for paragraph in text.split("\n\n") if paragraph.strip()]
    pieces: list[Piece] = []
    words = 0
    for paragraph in cycle(paragraphs):
        if words >= NOVEL_WORDS:
            break
        pieces.append(Piece(paragraph, "model" if len(pieces) % 2 else "writer"))
        words += len(paragraph.split())
    empty = Manuscript()
    file = folder / "novel.json"
    file.write_text(saved(Session.of(empty.after(empty.splice(0, 0, tuple(pieces))))))
    return file, words


Figures = dict[str, list[float]]


def short_text(desk: Visit, figures: Figures) -> None:
    desk.set_length(8)
    desk.sheet.fill("It was a dark and stormy night")
    desk.sheet.blur()
    desk.caption("7 words").wait_for()
    over, _ = desk.first_token()
    figures["first"].append(over)
    desk.ended()


def streaming(desk: Visit, figures: Figures, tokens: int) -> None:
    desk.set_length(tokens)
    desk.sheet.fill("It was a dark and stormy night")
    desk.first_token()
    stop, progress = desk.button("Stop"), desk.caption("tokens/s")
    pressed = desk.keys("ArrowLeft", lambda: not stop.is_visible())
    figures["keys"].append(spread(pressed).median)
    figures["slowest key"].append(max(pressed))
    figures["within"].append(100 * sum(one <= 200 for one in pressed) / len(pressed))
    desk.ended()
    said = re.search(r"([\d,]+) tokens · ([\d,]+) tokens/s", progress.inner_text())
    assert said is not None
    figures["tokens"].append(float(said[1].replace(",", "")))
    figures["speed"].append(float(said[2].replace(",", "")))


def long_text(desk: Visit, figures: Figures, file: Path, words: int) -> None:
    began = time.perf_counter()
    desk.page.locator("input[type=file]").set_input_files(file)
    desk.caption(f"{words:,} words").wait_for(timeout=60_000)
    figures["opened"].append(time.perf_counter() - began)
    desk.set_length(64)
    over, whole = desk.first_token()
    figures["novel first"].append(over)
    figures["novel first, all"].append(whole)
    desk.ended()
    desk.sheet.press("Control+End")
    end = time.perf_counter() + 5
    typed = desk.keys("x", lambda: time.perf_counter() > end)
    figures["novel keys"].append(spread(typed).median)
    figures["novel slowest key"].append(max(typed))


def main(artifact: str = "pretrained", runs: int = 3, tokens: int = 2000, per_second: float = 50) -> None:
    """Measure the desk.

    Args:
        artifact: A model directory, or a folder of runs whose newest is served.
        runs: How often each is measured.
        tokens: Of the stream during which keys are pressed; the model may end it sooner.
        per_second: Tokens of that stream a second.
    """
    figures: Figures = defaultdict(list)
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(artifact) as (url, engine),
        desk_before(url) as address,
        chromium() as browser,
    ):
        file, words = novel(Path(folder))
        for number in range(runs):
            note(f"run {number + 1} of {runs}")
            engine.pace = 0.0
            with visited(browser, address, url) as desk:
                short_text(desk, figures)
            with visited(browser, address, url) as desk:
                long_text(desk, figures, file, words)
            if tokens:
                engine.pace = 1 / per_second
                with visited(browser, address, url) as desk:
                    streaming(desk, figures, tokens)
        print_machine()
        note(f"chromium {browser.version}; a novel of {words:,} words, {file.stat().st_size / 1e6:.1f} MB saved")
    shown = {name: spread(values) for name, values in figures.items()}
    print_header("", f"median of {runs} (range)", "budget")
    print_row("click to first token, over the service's own, ms", f"{shown['first']:.0f}", 300)
    if tokens:
        note(f"{shown['tokens']:.0f} tokens, {shown['speed']:.0f} a second")
        print_row("key to frame while it streams, median of a run, ms", f"{shown['keys']:.0f}", 200)
        print_row("... the slowest of a run, ms", f"{shown['slowest key']:.0f}", "")
        print_row("... answered within 200 ms, % of a run", f"{shown['within']:.1f}", "")
    print_row("a novel: from choosing the file until it is there, s", f"{shown['opened']:.1f}", "")
    print_row("... click to first token, ms", f"{shown['novel first, all']:.0f}", "")
    print_row("... click to first token, over the service's own, ms", f"{shown['novel first']:.0f}", 300)
    print_row("... key to frame while typing, median of a run, ms", f"{shown['novel keys']:.0f}", "")
    print_row("... the slowest of a run, ms", f"{shown['novel slowest key']:.0f}", "")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
