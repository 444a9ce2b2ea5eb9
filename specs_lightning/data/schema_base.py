"""What a schema is: how the rows of some files become rows with our columns."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar


class Schema:
    """Rows as they are. A subclass says what its data set calls things, and puts right what differs row by row."""

    columns: ClassVar[Mapping[str, str]] = {}
    """Their column for ours (`columns.USUAL_COLUMNS`), where it is not a usual name; a dot leads into a nested one."""
    required: ClassVar[tuple[str, ...]] = ()
    """Columns by which a file of this data set is known."""
    forbidden_splits: ClassVar[tuple[str, ...]] = ()
    """Splits that hold other data than their name says."""
    rejected: ClassVar[str] = "rejected"
    """The column of a preference pair's side to move away from."""

    def columns_of(self, existing: Collection[str]) -> Mapping[str, str]:
        """`columns` of a file that has these columns."""
        return self.columns

    def missing(self, existing: Collection[str]) -> str | None:
        """The first column that a file of this data set has and this one lacks."""
        return next((column for column in self.required if column not in existing), None)

    def read(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row's values under the names of `columns`; of one that cannot be used `ValueError("kind: details")`."""
        return row

    def sides(self, row: dict[str, Any]) -> tuple[Any, Any]:
        """The chosen response of a row of pairs or demonstrations, and the rejected one or None, as the file has them.

        `ValueError` as of `read`.
        """
        return row.get("chosen", row.get("completion")), row.get(self.rejected)
