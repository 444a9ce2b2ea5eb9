"""Which of a file's columns holds what: by the settings, by the schema, or by its usual name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from specs_lightning.data.schemas import find_schema
from specs_lightning.errors import DataError

USUAL_COLUMNS: dict[str, tuple[str, ...]] = {
    "id": ("id", "qid", "pid"),
    "question": ("question", "problem", "prompt"),
    "answer": ("answer",),
    "answer_type": ("answer_type",),
    "answer_format": ("answer_format",),
    "choices": ("choices", "options"),
    "images": ("images", "image"),
    "messages": ("messages", "conversations"),
    "precision": ("precision",),
    "unit": ("unit",),
}
"""Our names, and the columns in which each is looked for, the first that exists."""


def find_columns(mapped: Mapping[str, str], schema_name: str, path: Path, existing: tuple[str, ...]) -> dict[str, str]:
    """The file's column for each of our names that it has one for; none of a file without columns, which has no rows.

    Args:
        mapped: what the settings say; an empty name ignores a column.
        schema_name: of the schema, which has columns of its own.
        path: of the file, for messages.
        existing: the file's columns.

    Raises:
        DataError: one that the schema needs or the settings name is not there, or none holds the question.
    """
    schema = find_schema(schema_name)
    if not existing:
        return {}
    if missing := [column for column in schema.required if column not in existing]:
        raise DataError(
            f"{path} is not in the schema {schema_name}: it has no column {missing[0]!r}, but {listed(existing)}; "
            "choose another `schema`, or `generic` with `columns`"
        )
    for name, column in mapped.items():
        if column and column not in existing and column.partition(".")[0] not in existing:
            raise DataError(f"{path} has no column {column!r} for {name}; it has {listed(existing)}")
    usual = {name: next((c for c in candidates if c in existing), "") for name, candidates in USUAL_COLUMNS.items()}
    named = {**usual, **schema.columns, **mapped}
    columns = {name: column for name, column in named.items() if column}
    if "question" not in columns and "messages" not in columns:
        raise DataError(f"{path} has no column with the question; it has {listed(existing)}: map one with `columns`")
    return columns


def listed(columns: tuple[str, ...]) -> str:
    """Names of columns, for a message."""
    shown = ", ".join(columns[:40]) or "none"
    return f"{shown}, … ({len(columns)} in all)" if len(columns) > 40 else shown
