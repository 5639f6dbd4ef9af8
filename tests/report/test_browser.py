"""The page in a real browser: no error, the figures drawn, nothing wider than the window, in light and dark."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

from tests.programs import require_installed, require_program
from tests.report.stories import job_with_a_recycle, page_of, recorded, story_of

require_installed("playwright", "'.[test]'")

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(sys.platform != "linux", reason="the browser is Debian's chromium, started with its options"),
]

OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DEADLINE_MS = 120_000
SIZES = {"screen": (1280, 900), "telephone": (390, 844)}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, without a window."""
    from playwright.sync_api import sync_playwright

    program = require_program("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, headless=True, args=OPTIONS, timeout=DEADLINE_MS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Reports: an incident, a job with a recycle, one whose shard has a name of a line's length."""
    folder = tmp_path_factory.mktemp("pages")
    stories = {
        "incident": recorded("incident-0611-slack"),
        "recycled": story_of(job_with_a_recycle()),
        "long-name": story_of(job_with_a_recycle("notes_" * 60)),
    }
    made = {name: folder / f"{name}.html" for name in stories}
    for name, story in stories.items():
        made[name].write_text(page_of(story), encoding="utf-8")
    yield made
    shutil.rmtree(folder)


def new_page(browser: Browser, width: int, height: int, scheme: Literal["light", "dark"]) -> Page:
    """A page of this size and theme, empty as yet; what is asked of it has time on a busy machine as well."""
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    page.set_default_timeout(DEADLINE_MS)
    return page


def brightness(page: Page, expression: str) -> float:
    """Of a computed colour, 0 to 255."""
    colour = page.evaluate(f"{expression}.match(/[0-9.]+/g).slice(0, 3).map(Number)")
    return float(sum(colour) / 3)


NAMES, SCHEMES = ("incident", "recycled", "long-name"), ("light", "dark")
SEEN = [
    # Each story in each size and each theme; all twelve are looked at by `pytest -m slow`.
    pytest.param(name, size, scheme, marks=[pytest.mark.slow] if (i + j + k) % 2 else [])
    for i, name in enumerate(NAMES)
    for j, size in enumerate(SIZES)
    for k, scheme in enumerate(SCHEMES)
]


@pytest.mark.parametrize(("name", "size", "scheme"), SEEN)
def test_the_page_in_a_browser(
    browser: Browser, pages: dict[str, Path], name: str, size: str, scheme: Literal["light", "dark"]
) -> None:
    """Nothing on the console or from a network, figures and texts of a readable size, no scrolling sideways."""
    width, height = SIZES[size]
    page = new_page(browser, width, height, scheme)
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(pages[name].as_uri())
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(
        "[...document.querySelectorAll('body *')].every(e => e.getBoundingClientRect().right <= innerWidth + 1)"
    )

    figures = page.locator("figure svg:visible")
    assert figures.count() == page.locator("figure").count() >= 1
    box = figures.first.bounding_box()
    assert box is not None
    assert box["width"] > 0.85 * min(width, 1140)
    assert box["height"] > 250
    lines = page.locator("figure svg:visible path:visible").all()
    drawn = [line for line in lines if (size_of := line.bounding_box()) and size_of["width"] > 0.3 * box["width"]]
    assert len(drawn) >= 4
    letters = page.evaluate(
        "[...document.querySelectorAll('figure svg text')].map(e => e.getBoundingClientRect())"
        ".filter(r => r.width && r.height).map(r => Math.min(r.width, r.height))"
    )
    assert len(letters) > 6
    assert min(letters) >= 6
    assert page.evaluate("parseFloat(getComputedStyle(document.body).fontSize)") >= 15

    paper = brightness(page, "getComputedStyle(document.body).backgroundColor")
    ink = brightness(page, "getComputedStyle(document.querySelector('figure svg:not([hidden]) text')).fill")
    assert (paper > 200) is (scheme == "light")
    assert abs(paper - ink) > 100
    page.close()


def test_what_is_too_wide_is_noticed(browser: Browser, tmp_path: Path) -> None:
    """The check for scrolling sideways can fail."""
    wide = tmp_path / "wide.html"
    wide.write_text("<!DOCTYPE html><body><div style='width: 500px'>x</div>", encoding="utf-8")
    page = new_page(browser, 390, 844, "light")
    page.goto(wide.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") > 390
    page.close()
