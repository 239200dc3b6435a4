"""Claim: the page at `/` is small, soon there, adds little to the service's own time, and answers while it streams.

Nothing to compare it with: budgets instead, each named in its row. The service runs in this process, with the model
that comes with the package or another artifact; the browser is a Chromium of this machine, with no window.

A first paint counts from asking for the page. A first token counts from the click to the frame that shows it, less the
service's `first_token_seconds`. A key counts from its press to the frame that shows it, while 2,000 tokens come at 50 a
second: it is typed into the beginning of the manuscript, where an edit costs most. What else a machine does shows in
the slowest keys and not in the processor time of the page's main thread.

    .venv/bin/python benchmarks/page.py [--artifact pretrained] [--runs 3] [--tokens 2000]
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tyro
from browsing import chromium, serving
from measure import note, print_header, print_machine, print_row, spread
from playwright.sync_api import Browser, Page, expect

BETWEEN_KEYS_SECONDS = 0.25

WATCH = """
const shown = (then) => requestAnimationFrame(() => setTimeout(() => then(performance.now())));
window.keys = [];
addEventListener("keydown", ({key, timeStamp}) => {
    if (key === "x") shown((at) => window.keys.push(at - timeStamp));
}, true);
addEventListener("click", ({target, timeStamp}) => {
    if (target.id !== "write") return;
    const mirror = document.getElementById("mirror");
    const watcher = new MutationObserver(() => {
        if (!mirror.querySelector("span")) return;
        watcher.disconnect();
        shown((at) => (window.first = at - timeStamp));
    });
    watcher.observe(mirror, {childList: true});
}, true);
"""
PAINT = """new Promise((tell) => {
    const seen = (list) => list.getEntriesByName("first-contentful-paint").forEach((one) => tell(one.startTime));
    new PerformanceObserver(seen).observe({type: "paint", buffered: true});
})"""
SIZE = """[...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")]
    .reduce((sum, one) => sum + one.transferSize, 0)"""


@contextmanager
def visited(browser: Browser, url: str) -> Iterator[tuple[Page, list[dict[str, Any]]]]:
    """A page in a session of its own, and the ends of its generations as they come."""
    context = browser.new_context()
    page = context.new_page()
    ends: list[dict[str, Any]] = []

    def heard(message: str | bytes) -> None:
        said = json.loads(message)
        if said["type"] == "complete":
            ends.append(said)

    page.on("websocket", lambda opened: opened.on("framereceived", heard))
    page.add_init_script(WATCH)
    page.goto(url)
    expect(page.locator("#connection")).to_have_attribute("data-state", "open")
    yield page, ends
    context.close()


def write(page: Page, length: int) -> None:
    page.get_by_label("Length").evaluate("(input, value) => (input.value = value)", length)
    page.locator("#write").click()


def first_token(page: Page, ends: list[dict[str, Any]]) -> float:
    """Milliseconds from the click until a token is seen, less the service's own."""
    page.get_by_label("Manuscript").fill("It was a dark and stormy night")
    write(page, 8)
    expect(page.locator("#stop")).to_have_attribute("aria-disabled", "true")
    while (first := page.evaluate("window.first")) is None or not ends:
        page.wait_for_timeout(10)
    return float(first) - 1000 * ends[0]["timings"]["first_token_seconds"]


def keys(page: Page, ends: list[dict[str, Any]], tokens: int) -> tuple[list[float], float, dict[str, Any]]:
    """Milliseconds of every key that was pressed while tokens came, of processor time a token, and the end of them."""
    devtools = page.context.new_cdp_session(page)
    devtools.send("Performance.enable", {"timeDomain": "threadTicks"})
    write(page, tokens)
    field = page.get_by_label("Manuscript")
    while not ends:
        field.press("Control+Home")
        field.press("x")
        page.wait_for_timeout(1000 * BETWEEN_KEYS_SECONDS)
    taken = {one["name"]: one["value"] for one in devtools.send("Performance.getMetrics")["metrics"]}["TaskDuration"]
    return page.evaluate("window.keys"), 1000 * taken / ends[0]["usage"]["completion_tokens"], ends[0]


def main(artifact: str = "pretrained", runs: int = 3, tokens: int = 2000, per_second: float = 50) -> None:
    """Measure the page.

    Args:
        artifact: A model directory, or a folder of runs whose newest is served.
        runs: How often each is measured.
        tokens: Of the stream during which keys are pressed; the model may end it sooner.
        per_second: Tokens of that stream a second.
    """
    paints, sizes, firsts, medians, worst, within, works, speeds, counts = tuple[list[float], ...]([] for _ in range(9))
    with serving(artifact) as (url, engine), chromium() as browser:
        for number in range(runs):
            note(f"run {number + 1} of {runs}")
            engine.pace = 0.0
            with visited(browser, url) as (page, ends):
                paints.append(page.evaluate(PAINT))
                sizes.append(page.evaluate(SIZE) / 1000)
                firsts.append(first_token(page, ends))
            engine.pace = 1 / per_second
            with visited(browser, url) as (page, ends):
                pressed, work, end = keys(page, ends, tokens)
                medians.append(spread(pressed).median)
                worst.append(max(pressed))
                within.append(100 * sum(one <= 200 for one in pressed) / len(pressed))
                works.append(work)
                speeds.append(end["timings"]["tokens_per_second"])
                counts.append(end["usage"]["completion_tokens"])
        print_machine()
        note(f"chromium {browser.version}; {spread(counts):.0f} tokens, {spread(speeds):.1f} a second")
    print_header("", f"median of {runs} (range)", "budget")
    print_row("first paint, ms", f"{spread(paints):.0f}", 500)
    print_row("bytes in all, KB", f"{spread(sizes):.1f}", 60)
    print_row("click to first token, over the service's own, ms", f"{spread(firsts):.0f}", 100)
    print_row("key to frame while it streams, median of a run, ms", f"{spread(medians):.0f}", 200)
    print_row("... the slowest of a run, ms", f"{spread(worst):.0f}", "")
    print_row("... answered within 200 ms, % of a run", f"{spread(within):.1f}", "")
    print_row("processor time of the page a token, keys included, ms", f"{spread(works):.1f}", "")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
