"""Files that grow by lines of JSON, and that a kill may leave with a part of one at their end.

Such a part is as if it had not been written: readers leave it out, and the next line takes its place.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from specs_lightning.system.files import naming_what_has_no_room


class Line(NamedTuple):
    """A line that is not blank, and its number, counted from 1."""

    number: int
    content: bytes


def append_lines(file: Path, values: Iterable[Any]) -> None:
    """Add a line for each value; they are on the disk when this returns."""
    added = b"".join(json.dumps(value).encode() + b"\n" for value in values)
    file.parent.mkdir(parents=True, exist_ok=True)
    with naming_what_has_no_room(file), file.open("ab+") as opened:
        _mend_end(opened)
        opened.write(added)
        opened.flush()
        os.fsync(opened.fileno())


def all_lines(content: bytes) -> list[Line]:
    """The lines of a file, unparsed, so that a long file costs no more than what is read of it."""
    # Lines end at "\n" alone: `splitlines` would also cut at the line separators that JSON leaves unescaped.
    return [Line(number, line) for number, line in enumerate(content.split(b"\n"), 1) if line.strip()]


def whole_lines(content: bytes) -> list[Line]:
    """The same, without a last one that is not complete."""
    lines = all_lines(content)
    if lines and not content.endswith(b"\n") and parsed(lines[-1].content) is None:
        lines.pop()
    return lines


def readable_lines(file: Path) -> Iterator[Line]:
    """The lines that are JSON: of a file whose other lines, cut off wherever they stand, are simply made again."""
    content = file.read_bytes() if file.exists() else b""
    return (line for line in all_lines(content) if parsed(line.content) is not None)


def parsed(line: bytes) -> Any:
    """What a line says; None for one that is no JSON."""
    try:
        return json.loads(line)
    except ValueError:
        return None


def _mend_end(opened: IO[bytes]) -> None:
    """Let what is added next begin a line."""
    opened.seek(max(0, opened.seek(0, os.SEEK_END) - 1))
    if opened.read(1) in (b"", b"\n"):
        return
    opened.seek(0)
    before, newline, last = opened.read().rpartition(b"\n")
    if parsed(last) is None:
        opened.truncate(len(before + newline))
    else:  # whole but for its end
        opened.write(b"\n")
