"""Whatever a name, a path or an answer is made of: it is said as it is, in one piece, and steers nothing."""

from __future__ import annotations

import ast
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.progress import Progress
from rich.table import Table

from specs_lightning.system.progress import progress_bar, progress_display
from specs_lightning.system.terminal import console, pasted, plain, say, visible

PACKAGE = Path(__file__).parents[2] / "specs_lightning"
NAMES = {
    "a style that rich would take off": "r[lr=1e-6]",
    "the end of a style that was not begun": "r[/x]",
    "a style": "[red]r[/red]",
    "an emoji by its name": "r:smile:",
    "a backslash before a bracket": r"r\[bold]",
    "a link": "[link=http://host.invalid]r",
    "a long path": "/".join(["folder"] * 60),
    "spaces and quotes": 'it\'s "a" run $(touch owned)',
}


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "width", 2000)


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
class TestName:
    def test_it_is_said_as_it_is_in_one_line(self, name: str, capsys: pytest.CaptureFixture[str]) -> None:
        say(f"report: {name}")
        assert capsys.readouterr().out == f"report: {name}\n"

    def test_a_table_shows_it_as_it_is(self, name: str, wide: None) -> None:
        table = Table(title=name)
        table.add_column(name)
        table.add_row(plain(name))
        with console.capture() as capture:
            console.print(table)
        assert capture.get().count(name) == 3

    def test_a_bar_shows_it_as_it_is(self, name: str, wide: None) -> None:
        with progress_display() as display, progress_bar(name, 1) as advance:
            advance(0, name)
            with console.capture() as capture:
                console.print(Progress.make_tasks_table(display, display.tasks))
        assert capture.get().count(name) == 2

    def test_it_is_one_word_when_it_is_pasted(self, name: str) -> None:
        words = ["specs", "report", name]
        assert shlex.split(pasted(*words)) == words
        shell = subprocess.run(["sh", "-c", f"printf %s {pasted(name)}"], capture_output=True, text=True, check=True)
        assert shell.stdout == name


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;a title\x07", r"\x1b]0;a title\x07"),
        ("a\rb\x08c\x9b2J", r"a\rb\x08c\x9b2J"),
        ("half \ud83d", r"half \ud83d"),
        ("a\tb\nc – Γ 图", "a\tb\nc – Γ 图"),
    ],
)
def test_what_steers_a_terminal_is_shown_by_its_code(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert plain(text).plain == shown.expandtabs() or plain(text).plain == shown


def prints(path: Path) -> Iterator[tuple[int, ast.expr]]:
    """The first argument of each `console.print`, and its line."""
    for call in ast.walk(ast.parse(path.read_text())):
        if isinstance(call, ast.Call) and ast.unparse(call.func) in ("console.print", "console.rule") and call.args:
            yield call.lineno, call.args[0]


def test_text_is_printed_by_say_alone() -> None:
    """`console.print` breaks it into lines, and lets through what steers a terminal."""
    texts = [
        f"{file.relative_to(PACKAGE)}:{line}"
        for file in PACKAGE.rglob("*.py")
        for line, shown in prints(file)
        if isinstance(shown, ast.Constant | ast.JoinedStr) or ast.unparse(shown).startswith("str(")
    ]
    assert texts == []


def test_no_other_console_reads_markup() -> None:
    made = [
        ast.unparse(call)
        for file in PACKAGE.rglob("*.py")
        for call in ast.walk(ast.parse(file.read_text()))
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "Console"
    ]
    assert made and all("markup=False" in call for call in made)
