"""What all files of a run have in common: how they are written, read and checked.

`RecordFile` is a JSON file with one record, `RowFile` one with a record a line. Both appear whole or not at all, or by
lines with `append`; what is read has the types that its dataclass says. A file that is not there is empty: a report is
also wanted half-way. Whatever else is wrong raises `DamagedRecord`. The one exception is the last line of a file that
grows: it may be incomplete, and is then left out.

NaN and the infinities are written as null, since JSON knows none of them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from specs_lightning.errors import SpecsError
from specs_lightning.records.lines import Line, all_lines, append_lines, whole_lines
from specs_lightning.system.files import write_atomically

T = TypeVar("T")

RUN_AGAIN = "give the same `specs run` again, which writes it anew"
REDO_STAGE = "have the stage done again: name it in --redo of `specs run`, or delete its folder"
DRAW_AGAIN = "delete it, and it is drawn again"
ONLY_SHOWN = f"delete it, and reports do without; or {REDO_STAGE}"
_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)


class DamagedRecord(SpecsError, ValueError):
    """A file of a run that is not as it was written; the message says where, lines counted from 1, and what to do."""

    def __init__(self, file: Path, fault: str, remedy: str, line: int | None = None) -> None:
        place = f"{file}, line {line}" if line else str(file)
        super().__init__(f"{place} is damaged ({fault}): {remedy}")


@dataclass(frozen=True)
class RecordFile(Generic[T]):
    """A file of one record, called `name` in the folder of a run or a stage; `remedy` says what mends a damaged one."""

    name: str
    kind: type[T]
    remedy: str

    def read(self, folder: Path) -> T | None:
        """The record; None where there is no file."""
        file = folder / self.name
        content = read_bytes(file, self.remedy)
        return None if content is None else parse(self.kind, content, file, self.remedy)

    def write(self, folder: Path, record: T) -> None:
        write_atomically(folder / self.name, json.dumps(as_json(record), indent=1, default=str))


@dataclass(frozen=True)
class RowFile(Generic[T]):
    """A file with a record a line; where it `grows` line by line, its last one may not be complete yet."""

    name: str
    kind: type[T]
    remedy: str
    grows: bool = False

    def read(self, folder: Path, choose: Callable[[list[Line]], Sequence[Line]] = list) -> list[T]:
        """The records of the lines that `choose` takes, in order: others are not even looked at."""
        file = folder / self.name
        content = read_bytes(file, self.remedy) or b""
        lines = whole_lines(content) if self.grows else all_lines(content)
        return [parse(self.kind, line.content, file, self.remedy, line.number) for line in choose(lines)]

    def write(self, folder: Path, rows: Iterable[T]) -> None:
        write_atomically(folder / self.name, "".join(json.dumps(as_json(row)) + "\n" for row in rows))

    def append(self, folder: Path, rows: Iterable[T]) -> None:
        """Add records, each with a line of its own; they are on the disk when this returns."""
        append_lines(folder / self.name, map(as_json, rows))


def read_bytes(file: Path, remedy: str) -> bytes | None:
    """A file's content; None where there is none."""
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DamagedRecord(file, f"it cannot be read: {error.strerror}", remedy) from error


def parse(kind: type[T], content: bytes, file: Path, remedy: str, line: int | None = None) -> T:
    """The record of type `kind` that JSON says; unknown names are those of another version, and are left out."""
    try:
        record: T = _adapter(kind).validate_json(content, strict=True)
        return record
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        fault = f"{where}: {first['msg']}" if where else first["msg"]
        raise DamagedRecord(file, fault, remedy, line) from error


def finite(value: float | None) -> float | None:
    """A number; None for what is absent, NaN or infinite."""
    return value if value is not None and math.isfinite(value) else None


def as_json(value: Any) -> Any:
    """A dataclass or plain value as JSON has it."""
    if is_dataclass(value):
        value = vars(value)
    if isinstance(value, dict):
        return {name: as_json(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    return finite(value) if isinstance(value, float) else value
