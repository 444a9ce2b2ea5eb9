"""Rows that could not be used, each with its place and the reason: counted and written down, never lost in silence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from specs_lightning.groups import Prompt
from specs_lightning.records.set_aside import SET_ASIDE, SetAsideRow


class SetAside:
    """Collects the rows that could not be used.

    A reason is a kind and, after a colon, what is particular to the row (`missing image: cat.png`): rows are counted
    by the kind.
    """

    def __init__(self) -> None:
        self.rows: list[SetAsideRow] = []

    def add(self, source: str, row: str | int, reason: str) -> None:
        self.rows.append(SetAsideRow(source, row, reason))

    def add_prompt(self, prompt: Prompt, reason: str) -> None:
        self.add(prompt.metadata["source_file"], prompt.metadata["source_row"], reason)

    def restore(self, rows: Iterable[Sequence[Any]]) -> None:
        """Add what was set aside before; what was met again already stays single."""
        known = set(self.rows)
        self.rows += [row for row in (SetAsideRow(*values) for values in rows) if row not in known]

    def counts(self) -> dict[tuple[str, str], int]:
        """The number of rows by (source, kind of reason), the most frequent first."""
        return dict(Counter((row.source, row.kind) for row in self.rows).most_common())

    def summary(self) -> str:
        """One line a source and kind, for a log or an error message."""
        if not self.rows:
            return "no rows set aside"
        lines = [f"  {number} x {kind} ({source})" for (source, kind), number in self.counts().items()]
        return "\n".join([f"{len(self.rows)} rows set aside:", *lines])

    def write_to(self, folder: Path) -> None:
        """Add the rows to the folder's `set_aside.jsonl`; a resumed run, which meets them again, lists them once."""
        if self.rows:
            SET_ASIDE.write(folder, dict.fromkeys([*SET_ASIDE.read(folder), *self.rows]))
