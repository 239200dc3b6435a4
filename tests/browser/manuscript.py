"""What a writer does with the page, and what can be read on it."""

from playwright.sync_api import Page, expect

from tests.running_service import soon

BEGINNING = "It was a dark and stormy night"


def text(page: Page) -> str:
    return page.get_by_label("Manuscript").input_value()


def written(page: Page) -> list[str]:
    """What is marked as the model's."""
    return page.locator("#mirror span").all_inner_texts()


def button(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def write(page: Page, beginning: str | None = None, length: int = 12) -> None:
    """Have the model begin."""
    if beginning is not None:
        page.get_by_label("Manuscript").fill(beginning)
    page.get_by_label("Length").evaluate("(input, value) => (input.value = value)", length)
    page.locator("#write").click()


def ended(page: Page, words: str = "Written") -> None:
    """Wait for the end of a generation, and read how it ended."""
    expect(page.locator("#stop")).to_have_attribute("aria-disabled", "true")
    expect(page.get_by_role("status")).to_contain_text(words)


def streaming(page: Page, least: int = 20) -> None:
    """Wait until the model has written some letters."""
    assert soon(lambda: sum(map(len, written(page))) >= least, 15)


def connected(page: Page) -> None:
    expect(page.locator("#connection")).to_have_attribute("data-state", "open")
