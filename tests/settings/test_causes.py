"""Of a wrong setting the parser's pages say one thing: which, where, and what would be right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from specs_lightning.settings.causes import innermost
from specs_lightning.settings.functions import function_settings


@dataclass(frozen=True)
class Source:
    path: str
    limit: int | None = None


class Shape:
    """What a setting takes any kind of."""


class Square(Shape):
    def __init__(self, side: int = 1, source: Source | None = None) -> None:
        self.side = side


class Circle(Shape):
    def __init__(self, radius: float) -> None:
        self.radius = radius


def draw(
    shape: Shape | None = None,
    shapes: list[Shape] | None = None,
    source: Source = Source("here"),
    sets: dict[str, Source] | None = None,
    kind: Literal["thick", "thin"] = "thin",
    rounds: int | None = None,
    make: Callable[[int], Shape] = Circle,
    data: dict[str, Any] | None = None,
) -> None:
    """What is configured here."""


HERE = __name__
SQUARE, CIRCLE = f"{HERE}.Square", f"{HERE}.Circle"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def said(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    with pytest.raises(SystemExit) as exit:
        function_settings(draw, args)
    assert exit.value.code == 2
    return capsys.readouterr().err.removesuffix("\n")


NO_SUCH = "there is no such setting"
ON_THE_COMMAND_LINE = {
    "a wrong type": (["--rounds=five"], "rounds: expected int, got 'five'"),
    "a number where none belongs": (["--source.path=1", "--rounds=1.5"], "rounds: expected int, got 1.5"),
    "none of the values": (["--kind=thik"], "kind: expected 'thick' or 'thin', got 'thik'"),
    "an unknown setting": (["--roundz=5"], f"roundz: {NO_SUCH}\nDid you mean rounds?"),
    "one like no other": (["--source.colour=x"], f"source.colour: {NO_SUCH}\nThere are: path, limit"),
    "a field of a dataclass": (["--source.limit=x"], "source.limit: expected int, got 'x'"),
    "an unknown one in braces": (["--source={pth: x}"], f"source.pth: {NO_SUCH}\nDid you mean path?"),
    "a class's setting": ([f"--shape={SQUARE}", "--shape.side=x"], "shape.side: expected int, got 'x'"),
    "one of another class": (
        [f"--shape={SQUARE}", "--shape.radius=1"],
        f"shape.radius: {NO_SUCH}\nThere are: side, source",
    ),
    "one further down": (
        [f"--shape={SQUARE}", "--shape.init_args.source.limt=1"],
        f"shape.source.limt: {NO_SUCH}\nDid you mean limit?",
    ),
    "a class that is not there": ([f"--shape={HERE}.Circl"], f"shape: {HERE} has no Circl\nDid you mean Circle?"),
    "a module that is not there": (["--shape=nowhere.Square"], "shape: No module named 'nowhere'"),
    "no class path": (["--shape=square"], "shape: no class square: give its whole path, as package.module.Class"),
    "a class of another kind": ([f"--shape={HERE}.Source"], "shape: that class is no Shape"),
    "no function": ([f"--make={HERE}.Circl"], f"make: {HERE} has no Circl\nDid you mean Circle?"),
    "a setting that is missing": ([f"--shape={CIRCLE}"], "required and not given: shape.radius"),
    "one of several kinds": (["--shapes=x"], "shapes: expected list[Shape], got 'x'"),
    "a file without --config": (["a.yaml"], "a.yaml is not the value of any setting\nDid you mean --config a.yaml?"),
}  # fmt: skip


@pytest.mark.parametrize(("args", "cause"), ON_THE_COMMAND_LINE.values(), ids=ON_THE_COMMAND_LINE.keys())
@pytest.mark.bad_input("command lines")
def test_one_on_the_command_line(capsys: pytest.CaptureFixture[str], args: list[str], cause: str) -> None:
    assert said(capsys, *args) == f"specs draw: {cause}"


IN_A_FILE = {
    "a wrong type": ("kind: thin\nrounds: five\n", "a.yaml, line 2: rounds: expected int, got 'five'"),
    "an unknown setting": ("kind: thin\nroundz: 5\n", f"a.yaml, line 2: roundz: {NO_SUCH}\nDid you mean rounds?"),
    "of one in a dictionary": (
        "sets:\n  one: {path: x, limit: 2}\n  two: {path: x, limit: many}\n",
        "a.yaml, line 3: sets.two.limit: expected int, got 'many'",
    ),
    "of one in a list": (
        f"shapes:\n- class_path: {SQUARE}\n  init_args: {{side: 2}}\n- class_path: {SQUARE}\n  init_args: {{sid: 2}}\n",
        f"a.yaml, line 5: shapes.1.sid: {NO_SUCH}\nDid you mean side?",
    ),
    "a field of a class's dataclass": (
        f"shape:\n  class_path: {SQUARE}\n  init_args:\n    source:\n      path: here\n      limit: x\n",
        "a.yaml, line 6: shape.source.limit: expected int, got 'x'",
    ),
    "a value of many lines": ("rounds: |\n  Errors:\n  - one\n", "rounds: expected int, got {'Errors': ['one']}"),
    "missing": ("sets: {one: {limit: 2}}\n", "required and not given: sets.path"),
    "no YAML": ("kind: thin\nsets: [1\nrounds: 2\n", "a.yaml, line 3: not YAML: expected ',' or ']', but got ':'"),
    "no settings": ("- 1\n", "a.yaml does not hold settings by name"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "cause"), IN_A_FILE.values(), ids=IN_A_FILE.keys())
@pytest.mark.bad_input("settings")
def test_one_in_a_file(capsys: pytest.CaptureFixture[str], text: str, cause: str) -> None:
    Path("a.yaml").write_text(text)
    assert said(capsys, "--config=a.yaml") == f"specs draw: {cause}"


def test_one_in_a_file_that_is_extended(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.yaml").write_text("kind: thin\nrounds: five\n")
    Path("b.yaml").write_text("extends: a.yaml\nkind: thick\n")
    Path("c.yaml").write_text("kind: thin\n")
    args = ("--config=b.yaml", "--config", "c.yaml")
    assert said(capsys, *args) == "specs draw: a.yaml, line 2: rounds: expected int, got 'five'"


def test_a_file_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no such file: " in said(capsys, "--config=a.yaml")


def test_all_that_the_parser_says_is_there_when_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPECS_TRACEBACK", "1")
    assert "Does not validate against any of the Union subtypes" in said(capsys, "--rounds=five")


def test_what_is_not_known_is_said_as_it_is() -> None:
    assert str(innermost("something new\nof two lines")) == "something new\nof two lines"
    assert str(innermost('Parser key "a":\n  something new')) == "a: something new"
