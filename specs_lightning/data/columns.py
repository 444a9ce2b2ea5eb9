"""Which of a file's columns holds what: by the settings, by the schema, or by its usual name."""

from __future__ import annotations

from collections.abc import Collection, Mapping
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

AUTO = "auto"
"""In place of a schema's name: the one that the columns tell."""

_ASKED = {"prompt", "question", "problem", "instruction"}
_TOLD_BY: tuple[tuple[str, set[str], set[str]], ...] = (
    ("verl", {"data_source", "prompt", "reward_model"}, set()),
    ("trl", {"prompt", "solution"}, {"answer", "question", "problem"}),
    ("trl", {"chosen", "rejected"}, {*_ASKED, "messages", "conversations"}),
    ("ms_swift", {"messages", "rejected_response"}, _ASKED),
    ("ms_swift", {"messages", "solution"}, {*_ASKED, "answer"}),
    ("llama_factory", {"conversations", "chosen", "rejected"}, _ASKED),
    ("llama_factory", {"messages", "chosen", "rejected"}, _ASKED),
)
_TOLD_BY_IN_PAIRS = (("llama_factory", {"conversations"}, _ASKED), ("ms_swift", {"messages"}, _ASKED))
"""Chats alone: demonstrations, read alike by either, where pairs are asked for; where prompts are, their golds lack."""


def recognised(schema_name: str, existing: Collection[str], pairs: bool = False) -> str:
    """The schema of this name or, for `auto`, that of the trainer whose files have these columns; else `generic`."""
    if schema_name != AUTO:
        return schema_name
    told_by = _TOLD_BY + (_TOLD_BY_IN_PAIRS if pairs else ())
    fitting = (name for name, needed, others in told_by if needed <= set(existing) and not others & set(existing))
    return next(fitting, "generic")


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
    if missing := schema.missing(existing):
        raise DataError(
            f"{path} is not in the schema {schema_name}: it has no column {missing!r}, but {listed(existing)}; "
            "choose another `schema`, or `generic` with `columns`"
        )
    for name, column in mapped.items():
        if column and column not in existing and column.partition(".")[0] not in existing:
            raise DataError(f"{path} has no column {column!r} for {name}; it has {listed(existing)}")
    usual = {name: next((c for c in candidates if c in existing), "") for name, candidates in USUAL_COLUMNS.items()}
    named = {**usual, **schema.columns_of(existing), **mapped}
    columns = {name: column for name, column in named.items() if column}
    if "question" not in columns and "messages" not in columns:
        raise DataError(f"{path} has no column with the question; it has {listed(existing)}: map one with `columns`")
    return columns


def listed(columns: tuple[str, ...]) -> str:
    """Names of columns, for a message."""
    shown = ", ".join(columns[:40]) or "none"
    return f"{shown}, … ({len(columns)} in all)" if len(columns) > 40 else shown
