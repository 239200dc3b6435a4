"""The picture in README.md: a passage is begun, streamed, looked into, changed and retried on the writing desk.

One run in a real browser, before a service of the model that comes with the package; the texts are what it wrote, the
times those that it took. It writes so many tokens a second and no more, so that an eye can follow, and the arrow of a
mouse is drawn, since a browser without a window has none.

    apt-get install --no-install-recommends chromium fonts-urw-base35
    .venv/bin/python benchmarks/picture.py [--output docs/desk.gif]
"""

import io
import time
from collections.abc import Callable
from pathlib import Path

import tyro
from browsing import chromium, desk_before, serving
from measure import note
from PIL import Image
from playwright.sync_api import Locator, Page, expect

OPENING = "Towards the close of a November afternoon, a travelling carriage drew up before the old house, and"
SIZE = {"width": 860, "height": 560}
ASIDE = (700.0, 300.0)
"""Where the mouse is in nobody's way."""
COLOURS = 96
LONGEST_SECONDS = 0.35
"""Of a frame that nobody asked to stand longer: what the browser was busy with is not shown."""

ARROW = """
addEventListener("DOMContentLoaded", () => {
    const arrow = document.createElement("div");
    arrow.id = "arrow";
    arrow.setAttribute("aria-hidden", "true");
    arrow.style.cssText = "position:fixed; z-index:999999; left:0; top:0; width:16px; height:22px;"
        + "pointer-events:none; background:#111;"
        + "clip-path:polygon(0 0, 0 78%, 24% 60%, 40% 96%, 56% 88%, 41% 54%, 72% 54%);"
        + "filter:drop-shadow(0 0 1px white); transform:translate(700px, 300px)";
    document.documentElement.append(arrow);
    addEventListener("mousemove", ({clientX, clientY}) => {
        arrow.style.transform = `translate(${clientX}px, ${clientY}px)`;
    }, true);
});
"""
CHOICE = """(spans) => {
    const found = spans.slice(8, 30).filter((span) => /^ [a-z]{3,}$/.test(span.textContent));
    found.sort((a, b) => parseInt(b.style.getPropertyValue("--doubt")) - parseInt(a.style.getPropertyValue("--doubt")));
    return Number(found[0].dataset.index);
}"""
"""The least likely of the whole words near the beginning of the passage."""


class Camera:
    """Pictures of a page, and how long each stands."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.frames: list[Image.Image] = []
        self.seconds: list[float] = []
        self._at = ASIDE

    def shoot(self, seconds: float | None = None) -> None:
        """A picture that stands for some seconds, or until the next."""
        began = time.monotonic()
        picture = self.page.screenshot(caret="initial", animations="allow")
        self.frames.append(Image.open(io.BytesIO(picture)).convert("RGB"))
        self.seconds.append(seconds or min(LONGEST_SECONDS, time.monotonic() - began))

    def until(self, ended: Callable[[], bool]) -> None:
        while not ended():
            self.shoot()

    def type(self, text: str) -> None:
        for start in range(0, len(text), 2):
            self.page.keyboard.type(text[start : start + 2])
            self.shoot(0.05)

    def go(self, x: float, y: float) -> None:
        """The mouse goes there, slower towards the end."""
        from_x, from_y = self._at
        self._at = (x, y)
        for step in range(1, 7):
            share = step / 6 * (2 - step / 6)
            self.page.mouse.move(from_x + share * (x - from_x), from_y + share * (y - from_y))
            self.shoot(0.05)

    def click(self, place: Locator) -> None:
        box = place.bounding_box()
        assert box is not None
        self.go(box["x"] + min(box["width"] / 2, 60), box["y"] + box["height"] / 2)
        self.page.mouse.click(*self._at)

    def save(self, output: Path, width: int) -> None:
        """As a GIF, the last picture first: it is what is seen where nothing moves."""
        pictures, seconds = [self.frames[-1], *self.frames], [0.8, *self.seconds]
        some = pictures[:: max(1, len(pictures) // 12)]
        strip = Image.new("RGB", (some[0].width, some[0].height * len(some)))
        for number, picture in enumerate(some):
            strip.paste(picture, (0, number * picture.height))
        palette = strip.quantize(COLOURS, method=Image.Quantize.MEDIANCUT)
        flat = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
        times = [max(20, round(100 * one) * 10) for one in seconds]
        flat[0].save(output, save_all=True, append_images=flat[1:], duration=times, loop=0, optimize=True, disposal=1)
        size = output.stat().st_size / 1e6
        note(f"{output}: {len(flat)} frames, {sum(times) / 1000:.1f} s, {flat[0].size}, {size:.2f} MB; width {width}")


def settle(page: Page, seed: int, length: int) -> None:
    """The desk as the picture begins: length and seed are set, and the panel is put away."""
    page.get_by_text("Advanced").click()
    for label, value in (("Length", length), ("Seed", seed)):
        field = page.get_by_label(label, exact=True)
        field.fill(str(value))
        field.press("Enter")
    page.get_by_test_id("stSidebarCollapseButton").locator("button").click(force=True)
    expect(page.get_by_test_id("stExpandSidebarButton")).to_be_visible()
    page.wait_for_timeout(500)


def film(camera: Camera) -> None:
    """What the picture tells."""
    page = camera.page
    sheet = page.get_by_label("Manuscript", exact=True)
    stop = page.get_by_role("button", name="Stop", exact=True)
    retry = page.get_by_role("button", name="Retry", exact=True)

    reached = page.get_by_test_id("stCaptionContainer").filter(has_text="It reached its length")

    def written() -> bool:
        return not stop.is_visible() and retry.is_enabled() and reached.is_visible()

    def passage() -> None:
        stop.wait_for()
        camera.until(written)

    sheet.click()
    camera.shoot(0.7)
    camera.type(OPENING)
    camera.click(page.get_by_role("button", name="Continue", exact=True))
    passage()
    camera.shoot(0.8)
    camera.click(page.get_by_text("Token view"))
    page.locator(".marks .token").first.wait_for()
    camera.shoot(0.8)
    index = page.locator(".marks [data-index]").evaluate_all(CHOICE)
    camera.click(page.locator(f".marks [data-index='{index}']"))
    choices = page.locator(".choices")
    choices.wait_for()
    camera.shoot(1.2)
    others = choices.locator("button").filter(has_text=r" ")
    words = choices.locator("q").all_inner_texts()
    now = page.locator(".marks .open").inner_text()
    other = next(n for n, word in enumerate(words) if word != now and word.strip().isalpha())
    camera.click(others.nth(other))
    passage()
    camera.shoot(1.2)
    camera.click(page.get_by_text("Token view"))
    camera.shoot(0.3)
    camera.click(retry)
    passage()
    camera.go(*ASIDE)
    camera.shoot(2.5)


def main(
    output: Path = Path("docs/desk.gif"),
    artifact: str = "pretrained",
    per_second: float = 24,
    length: int = 48,
    seed: int = 1837,
    scheme: str = "light",
    scale: float = 2,
) -> None:
    """Make the picture.

    Args:
        per_second: Tokens that are written a second.
        length: Tokens of each passage.
        seed: Of the first passage; the others draw theirs.
        scheme: `light` or `dark`.
        scale: Pixels for each that the page knows.
    """
    with serving(artifact) as (url, engine), desk_before(url) as address, chromium() as browser:
        engine.pace = 1 / per_second
        context = browser.new_context(viewport=SIZE, device_scale_factor=scale, color_scheme=scheme)  # type: ignore[arg-type]
        page = context.new_page()
        page.add_init_script(ARROW)
        page.goto(address)
        page.get_by_label("Manuscript", exact=True).wait_for(timeout=60_000)
        settle(page, seed, length)
        camera = Camera(page)
        film(camera)
        camera.save(output, SIZE["width"])
        context.close()


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
