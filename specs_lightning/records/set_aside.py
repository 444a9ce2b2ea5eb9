"""`set_aside.jsonl`: rows that could not be used, each with its place and the reason."""

from __future__ import annotations

from dataclasses import dataclass

from specs_lightning.records.record import ONLY_SHOWN, RowFile


@dataclass(frozen=True)
class SetAsideRow:
    """One row: the file that it stands in, its line or row there, and why it could not be used."""

    source: str
    row: str | int
    reason: str

    @property
    def kind(self) -> str:
        """Of the reason: what stands before the colon."""
        return self.reason.partition(": ")[0]


SET_ASIDE = RowFile("set_aside.jsonl", SetAsideRow, ONLY_SHOWN)
