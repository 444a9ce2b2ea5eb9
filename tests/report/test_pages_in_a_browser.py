"""The pages in a real browser: drawn, quiet, asking for nothing, and readable on a phone and a desk, light and dark."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.synthetic_run import write_evaluated, write_experiments, write_run
from playwright.sync_api import Browser, Page

from specs_lightning.report import write_report
from specs_lightning.report.comparison import write_comparison

SIZES = {"phone": {"width": 390, "height": 844}, "desk": {"width": 1280, "height": 900}}
SMALLEST_LETTERS = 8.0  # pixels
FIGURES = {"report": 10, "comparison": 5, "evaluation": 0}
"""The pages, and how many figures each has at least."""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    return {
        "report": write_report(write_run(folder / "run")),
        "comparison": write_comparison(folder / "comparison", write_experiments(folder), {}),
        "evaluation": write_evaluated(folder / "test.html"),
    }


@pytest.fixture(
    scope="module",
    params=[(page, size, scheme) for page in FIGURES for size in SIZES for scheme in ("light", "dark")],
    ids="-".join,
)
def opened(
    request: pytest.FixtureRequest, browser: Browser, pages: dict[str, Path]
) -> Iterator[tuple[Page, list[Any]]]:
    """A page with all that is folded away unfolded, and what it said or asked for."""
    name, size, scheme = request.param
    context = browser.new_context(viewport=SIZES[size], color_scheme=scheme)
    context.set_default_timeout(120_000)  # on a busy machine
    page, noticed = context.new_page(), []
    page.on("console", lambda message: noticed.append(message.text))
    page.on("pageerror", lambda error: noticed.append(str(error)))
    page.on(
        "request", lambda asked: noticed.append(asked.url) if not asked.url.startswith(("file:", "data:")) else None
    )
    page.goto(pages[name].as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    yield page, noticed
    context.close()


def test_it_says_no_error_and_asks_for_nothing(opened: tuple[Page, list[Any]]) -> None:
    page, noticed = opened
    assert page.title() and noticed == []


def test_every_figure_and_image_is_drawn(opened: tuple[Page, list[Any]], request: pytest.FixtureRequest) -> None:
    page, _ = opened
    figures = page.evaluate(
        "[...document.querySelectorAll('figure')].map(figure => {"
        "  const svg = figure.querySelector('svg'), box = svg.getBoundingClientRect();"
        "  const colours = [...svg.querySelectorAll('path, use')].map(one => getComputedStyle(one));"
        "  return {width: box.width, height: box.height, drawn: colours.length,"
        "          data: figure.querySelector('a[download]').href.slice(0, 14)}})"
    )
    name, *_ = request.node.callspec.params["opened"]
    assert len(figures) >= FIGURES[name]
    for figure in figures:
        assert figure["width"] > 200 and figure["height"] > 80 and figure["drawn"] > 10, figure
        assert figure["data"] == "data:text/csv;"
    broken = page.evaluate("[...document.images].filter(one => !one.naturalWidth).length")
    assert broken == 0


def test_it_fits_the_screen_and_its_letters_can_be_read(opened: tuple[Page, list[Any]]) -> None:
    page, _ = opened
    assert page.evaluate("document.scrollingElement.scrollWidth - innerWidth") <= 0
    smallest = page.evaluate(
        "Math.min(...[...document.querySelectorAll('figure svg')].flatMap(svg => {"
        "  const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;"
        "  return [...svg.querySelectorAll('text')].map(one => scale * parseFloat(getComputedStyle(one).fontSize))}))"
    )
    assert smallest >= SMALLEST_LETTERS


def test_the_last_column_of_every_table_can_be_reached(opened: tuple[Page, list[Any]]) -> None:
    """Scrolled to its end, the last head lies within the table's frame and beside the column that stays."""
    page, _ = opened
    hidden = page.evaluate(
        "[...document.querySelectorAll('.scroll')].filter(frame => {"
        "  frame.scrollLeft = frame.scrollWidth;"
        "  const heads = [...frame.querySelectorAll('thead th')];"
        "  if (heads.length < 2) return false;"
        "  const around = frame.getBoundingClientRect(), last = heads.at(-1).getBoundingClientRect();"
        "  const first = heads[0].getBoundingClientRect();"
        "  return last.right > around.right + 1 || last.left < Math.max(first.right, around.left) - 1"
        "}).map(frame => frame.innerText)"
    )
    assert hidden == []


def test_the_first_screen_of_a_report_has_the_table_and_all_curves_of_stages(
    browser: Browser, pages: dict[str, Path]
) -> None:
    page = browser.new_page(viewport=SIZES["desk"])
    page.set_default_timeout(120_000)
    page.goto(pages["report"].as_uri())
    bottoms = page.evaluate(
        "['.lead', 'table.results', '.overlays'].map("
        "  one => document.querySelector(one).getBoundingClientRect().bottom)"
    )
    rows = page.evaluate("new Set([...document.querySelectorAll('.overlays figure')].map(one => one.offsetTop)).size")
    page.close()
    assert bottoms == sorted(bottoms) and bottoms[-1] <= SIZES["desk"]["height"]
    assert rows == 1


def test_ink_stands_out_from_paper(opened: tuple[Page, list[Any]]) -> None:
    """A contrast of 4.5 or more (WCAG AA) for text, also for what is quiet."""
    page, _ = opened
    inks, paper = page.evaluate(
        "[['body', 'small', 'a'].map(one => getComputedStyle(document.querySelector(one)).color),"
        " getComputedStyle(document.body).backgroundColor]"
    )
    for ink in inks:
        light, dark = sorted((luminance(ink), luminance(paper)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (ink, paper)


def luminance(colour: str) -> float:
    """Of `rgb(r, g, b)`, as WCAG 2 defines it."""
    parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
