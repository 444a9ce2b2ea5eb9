"""What is written reads back; what is damaged is named, with its place and what to do."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from specs_lightning.errors import SpecsError
from specs_lightning.records.record import DamagedRecord, RecordFile, RowFile


@dataclass(frozen=True)
class Part:
    text: str
    share: float | None = None


@dataclass(frozen=True)
class Record:
    name: str
    parts: tuple[Part, ...] = ()
    counts: dict[str, int] = field(default_factory=dict)


ONE = RecordFile("one.json", Record, "mend it")
WHOLE = RowFile("whole.jsonl", Record, "mend it")
GROWING = RowFile("growing.jsonl", Record, "mend it", grows=True)
RECORD = Record("a\u2028b", (Part("x", 0.5), Part("y")), {"n": 3})


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "new"):
        ONE.write(folder, RECORD)
        assert ONE.read(folder) == RECORD
        for file in (WHOLE, GROWING):
            file.write(folder, [RECORD, Record("b")])
            assert file.read(folder) == [RECORD, Record("b")]


def test_what_is_not_there_is_empty(tmp_path: Path) -> None:
    assert ONE.read(tmp_path) is None
    assert WHOLE.read(tmp_path) == []


def test_what_is_not_finite_is_null(tmp_path: Path) -> None:
    ONE.write(tmp_path, Record("a", (Part("x", math.nan), Part("y", math.inf))))
    assert json.loads((tmp_path / ONE.name).read_text())["parts"] == [
        {"text": "x", "share": None},
        {"text": "y", "share": None},
    ]


def test_names_of_another_version_are_left_out(tmp_path: Path) -> None:
    (tmp_path / ONE.name).write_text('{"name": "a", "colour": "red", "parts": [{"text": "x", "size": 1}]}')
    assert ONE.read(tmp_path) == Record("a", (Part("x"),))


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "EOF while parsing"),
        (b'{"name": "a"', "EOF while parsing"),
        (b"name: a", "Invalid JSON"),
        (b'["a"]', "Input should be an object"),
        (b"{}", "name: Field required"),
        (b'{"name": 3}', "name: Input should be a valid string"),
        (b'{"name": "a", "parts": [{"text": "x"}, {}]}', r"parts\.1\.text: Field required"),
        (
            b'{"name": "a", "parts": [{"text": "x", "share": "0.5"}]}',
            r"parts\.0\.share: Input should be",
        ),
        (b'{"name": "a", "parts": 3}', "parts: Input should be a valid"),
        (b'{"name": "\xff"}', "invalid unicode"),
        (b'{"name": ' + b"[" * 10_000, "recursion limit|EOF"),
    ],
)
def test_damage_is_named_with_its_place_and_the_remedy(tmp_path: Path, content: bytes, fault: str) -> None:
    (tmp_path / ONE.name).write_bytes(content)
    with pytest.raises(DamagedRecord, match=rf"one\.json is damaged \(.*({fault}).*\): mend it") as error:
        ONE.read(tmp_path)
    assert isinstance(error.value, SpecsError), "the command line prints it without a traceback"
    if content:
        for file in (WHOLE, GROWING):
            (tmp_path / file.name).write_bytes(b'{"name": "a"}\n\n' + content + b"\n")
            with pytest.raises(DamagedRecord, match=rf"{file.name}, line 3 is damaged \(.*({fault}).*\): mend it"):
                file.read(tmp_path)


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / ONE.name).mkdir()
    with pytest.raises(DamagedRecord, match=r"one\.json is damaged \(it cannot be read: Is a directory\)"):
        ONE.read(tmp_path)


def test_a_last_line_that_is_being_written_is_left_out_where_a_file_grows(tmp_path: Path) -> None:
    for file in (WHOLE, GROWING):
        (tmp_path / file.name).write_text('{"name": "a"}\n{"name": "b"')
    assert GROWING.read(tmp_path) == [Record("a")]
    with pytest.raises(DamagedRecord, match="line 2"):
        WHOLE.read(tmp_path)
    (tmp_path / GROWING.name).write_text('{"name": "a"}\n{"name": "b"}')
    assert GROWING.read(tmp_path) == [Record("a"), Record("b")]


def test_only_chosen_lines_are_looked_at(tmp_path: Path) -> None:
    (tmp_path / WHOLE.name).write_text('{"name": "a"}\nnot even JSON\n{"name": "c"}\n')
    assert WHOLE.read(tmp_path, lambda lines: lines[::2]) == [Record("a"), Record("c")]
