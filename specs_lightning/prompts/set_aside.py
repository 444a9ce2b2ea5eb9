"""Rows that could not be used, each with its place and the reason: counted and written down, never lost in silence."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from specs_lightning.system.files import write_whole


class SetAsideRow(NamedTuple):
    """One row: the file that it stands in, its line or row there, and why it could not be used."""

    source: str
    row: str | int
    reason: str


class SetAside:
    """Collects the rows that could not be used.

    A reason is a kind and, after a colon, what is particular to the row (`missing image: cat.png`): rows are counted
    by the kind.
    """

    def __init__(self) -> None:
        self.rows: list[SetAsideRow] = []

    def add(self, source: str, row: str | int, reason: str) -> None:
        self.rows.append(SetAsideRow(source, row, reason))

    def restore(self, rows: Iterable[Sequence[Any]]) -> None:
        """Add what was set aside before; what was met again already stays single."""
        known = set(self.rows)
        self.rows += [row for row in map(SetAsideRow._make, rows) if row not in known]

    def counts(self) -> dict[tuple[str, str], int]:
        """The number of rows by (source, kind of reason), the most frequent first."""
        return dict(Counter((row.source, row.reason.partition(": ")[0]) for row in self.rows).most_common())

    def summary(self) -> str:
        """One line a source and kind, for a log or an error message."""
        if not self.rows:
            return "no rows set aside"
        lines = [f"  {number} x {kind} ({source})" for (source, kind), number in self.counts().items()]
        return "\n".join([f"{len(self.rows)} rows set aside:", *lines])

    def write(self, path: str | Path) -> None:
        """Add the rows to a JSONL file, which appears whole or not at all; a row that stands there stays single.

        So a resumed run, which meets the same rows again, does not list them twice. Without rows nothing is written.
        """
        if not self.rows:
            return
        path = Path(path)
        # Lines end at "\n" alone: `splitlines` would also cut at the line separators that JSON leaves unescaped.
        lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else []
        lines += [json.dumps(row._asdict(), ensure_ascii=False) for row in self.rows]
        unique = dict.fromkeys(line for line in lines if line)
        write_whole(path, "\n".join(unique) + "\n")
