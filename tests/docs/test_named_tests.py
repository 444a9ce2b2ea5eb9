"""What the documentation promises names the tests behind it, and each of them is there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.command_line import ROOT

PROMISES = ("reliability.md", "security.md")
DOCUMENTS = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"]
_NAMED = re.compile(r"`(?:tests/)?(?P<file>(?:\w+/)*test_\w+\.py)?(?:::(?P<test>test_\w+))?`")


def named(document: Path) -> Iterator[tuple[str, str | None]]:
    """The files below `tests/` that a document names, each with a test; `::test` alone is of the file before it."""
    file = ""
    for found in _NAMED.finditer(document.read_text()):
        file = found["file"] or file
        if found["file"] or found["test"]:
            yield file, found["test"]


def defined_in(file: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_every_test_that_is_named_is_there(document: Path) -> None:
    tests = ROOT / "tests"
    missing = [
        f"{file}::{test}"
        for file, test in named(document)
        if not (tests / file).is_file() or (test is not None and test not in defined_in(tests / file))
    ]
    assert missing == []


@pytest.mark.parametrize("document", PROMISES)
def test_every_paragraph_of_promises_names_a_test(document: str) -> None:
    """But for headings, code, tables of figures and what says where a promise ends."""
    promises = re.sub(r"```.*?```", "", (ROOT / "docs" / document).read_text(), flags=re.DOTALL)
    promises = promises.split("## Killed at random moments")[0]
    bullets = re.sub(r"\n- ", "\n\n- ", promises).split("\n\n")
    bare = [text for text in bullets if "::test_" not in text and not text.startswith(("#", "|")) and text.strip()]
    assert len(bare) == len(NO_PROMISE[document])
    assert all(map(str.startswith, map(str.strip, bare), NO_PROMISE[document])), bare


NO_PROMISE = {
    "reliability.md": ["A training that ends in any way", "- `torchrun` passes SIGTERM on"],
    "security.md": [
        "Who can reach what, where secrets go",
        "`specs serve` takes weights",
        "- Nothing is encrypted.",
        "`specs watch` shows the report",
    ],
}
"""Paragraphs that promise nothing, by how they begin."""
