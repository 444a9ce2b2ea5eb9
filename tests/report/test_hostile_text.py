"""Names, settings, answers and errors that would be elements of a page, or formulas in its data: they are text."""

from __future__ import annotations

import base64
import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from helpers.synthetic_run import KINDS, SETS, STAGES, write_evaluated, write_experiments, write_run

from specs_lightning.report.comparison import write_comparison
from specs_lightning.report.page import write_report

ATTACK = "=\"'><img src=x onerror=alert(1)><b>{{ 7 * 7 }}"
"""A formula that ends whatever quote it stands in, goes on as an element, and then as a template. It has no slash, so
that it can be the name of a folder."""
READ = {"started", "finished", "status", "measure", "gain"}
"""Fields whose values mean something to a reader."""
NAMES = {*SETS, *STAGES, "formats", "tasks", *KINDS.values()}
"""Keys that a user has chosen."""


@dataclass
class Page(HTMLParser):
    """The elements of a page, each with its attributes' names, and its addresses."""

    elements: set[tuple[str, ...]] = field(default_factory=set)
    addresses: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add((tag, *sorted(name for name, _ in attrs)))
        self.addresses += [value or "" for name, value in attrs if name in ("href", "src")]


def read(page: Path) -> Page:
    parsed = Page()
    parsed.feed(page.read_text())
    return parsed


def poisoned(value: Any, name: str = "") -> Any:
    """The same value with the attack before each text that a user, a model or a data set may have chosen."""
    if isinstance(value, dict):
        return {ATTACK + key if key in NAMES else key: poisoned(item, key) for key, item in value.items()}
    if isinstance(value, list):
        return [poisoned(item, name) for item in value]
    return ATTACK + value if isinstance(value, str) and name not in READ else value


def poison(run: Path) -> None:
    """All files of a run, and the folders of its stages."""
    for file in [*run.rglob("*.json"), *run.rglob("*.jsonl")]:
        lines = file.read_text().splitlines()
        file.write_text("".join(json.dumps(poisoned(json.loads(line))) + "\n" for line in lines))
    for file in run.rglob("metrics.csv"):
        header, *rows = csv.reader(file.open(newline=""))
        with file.open("w", newline="") as out:
            csv.writer(out).writerows([[name if name == "step" else f"gf/{ATTACK}{name}" for name in header], *rows])
    for stage in STAGES:
        (run / stage).rename(run / (ATTACK + stage))


def data_of(page: Page) -> Iterator[str]:
    """The cells of the CSV files that the page offers."""
    for address in page.addresses:
        if address.startswith("data:text/csv"):
            text = base64.b64decode(address.partition("base64,")[2]).decode()
            yield from (cell for row in csv.reader(text.splitlines()) for cell in row)


def shows_it_as_text(hostile: Path, harmless: Path) -> Page:
    """The page's elements are those of the same page without the attack, which is there to be read."""
    page = read(hostile)
    assert page.elements == read(harmless).elements
    assert all(address.startswith(("#", "data:image/png;base64,", "data:text/csv;")) for address in page.addresses)
    assert "alert(1)&gt;" in hostile.read_text() and "{{ 7 * 7 }}" in hostile.read_text()
    return page


def test_the_report_of_a_run(tmp_path: Path) -> None:
    harmless = write_report(write_run(tmp_path / "harmless"))
    run = write_run(tmp_path / "run")
    poison(run)
    page = shows_it_as_text(write_report(run), harmless)
    cells = list(data_of(page))
    assert sum("alert" in cell for cell in cells) > 20
    assert not any(cell.startswith(("=", "@", "+")) for cell in cells)
    assert all(re.fullmatch(r"-[\d.e-]+", cell) for cell in cells if cell.startswith("-"))


def test_a_comparison(tmp_path: Path) -> None:
    failures = {"b, seed 1": "no model"}
    write_comparison(tmp_path / "harmless", write_experiments(tmp_path / "a"), failures)
    runs = write_experiments(tmp_path / "b")
    for folder in (folder for of_seed in runs.values() for folder in of_seed.values()):
        poison(folder)
    hostile = {ATTACK + name: of_seed for name, of_seed in runs.items()}
    page = write_comparison(tmp_path / "out", hostile, poisoned({ATTACK: "no model"}))
    shows_it_as_text(page, tmp_path / "harmless" / "comparison.html")


def test_the_page_of_an_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    harmless = write_evaluated(tmp_path / "harmless.html")
    monkeypatch.setattr("helpers.synthetic_run.ATTACK", ATTACK)
    hostile = write_evaluated(tmp_path / "test.html", name=ATTACK)
    shows_it_as_text(hostile, harmless)
