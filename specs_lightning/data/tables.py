"""Rows out of the kinds of file that data sets come in: JSONL, JSON, parquet, and data sets saved by `datasets`.

Rows arrive as plain Python values, one after the other; images stay encoded, and no cache is written anywhere.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from specs_lightning.errors import SpecsError

if TYPE_CHECKING:
    from datasets import Dataset

_ROWS_AT_ONCE = 64
_SPLIT_NAMES = {"train", "test", "testmini", "validation", "val", "dev"}


class DataError(SpecsError, ValueError):
    """A data set that cannot be used as a whole; the message says which file, why, and what to do."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file.

    Args:
        file: the file's path.
        number: its line, counted from 1, in a JSONL file; its index, counted from 0, in any other.
        values: the row by column.
        problem: why there are no values, where the row could not be read.
    """

    file: str
    number: int
    values: dict[str, Any]
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """The columns of a data set, and its rows, which can be gone through once."""

    columns: tuple[str, ...]
    rows: Iterator[Row]


def read_table(path: Path, split: str | None = None) -> Table:
    """The rows of a JSONL, JSON or parquet file, of a folder of parquet files, or of a saved data set.

    Args:
        path: the file or folder.
        split: the split of a saved `DatasetDict` or of a folder whose files are named by split.

    Raises:
        DataError: there is no such file or split, it is of another kind, or it cannot be read. Damage inside a
            parquet file shows when its rows are gone through.
    """
    if not path.exists():
        raise DataError(f"no such file or folder: {path}; check `path` (it is relative to the working directory)")
    if path.is_dir():
        saved = any((path / name).is_file() for name in ("state.json", "dataset_dict.json"))
        return _saved_dataset(path, split) if saved else _parquet(_parquet_files(path, split))
    if split is not None:
        raise DataError(f"split {split!r} asked of the single file {path}; only folders have splits, leave it out")
    if path.suffix == ".parquet":
        return _parquet([path])
    if path.suffix in (".jsonl", ".ndjson", ".json"):
        return _json(path)
    raise DataError(f"{path} is no JSONL (.jsonl), JSON (.json) or parquet (.parquet) file: convert it to one")


def _json(path: Path) -> Table:
    content = path.read_bytes()
    if content.lstrip()[:1] == b"[" and path.suffix == ".json":
        try:
            values = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path} is not valid JSON ({error}); mend it, or write one object a line") from error
        rows = [_as_row(path, index, value) for index, value in enumerate(values)]
    else:
        # Split on "\n" alone: JSON strings may hold the other characters at which `splitlines` cuts.
        lines = enumerate(content.split(b"\n"), 1)
        rows = [_json_row(path, number, line) for number, line in lines if line.strip()]
    columns = dict.fromkeys(name for row in rows for name in row.values)
    return Table(tuple(columns), iter(rows))


def _json_row(path: Path, number: int, line: bytes) -> Row:
    try:
        return _as_row(path, number, json.loads(line))
    except (ValueError, RecursionError) as error:
        return Row(str(path), number, {}, f"malformed JSON: {error}")


def _as_row(path: Path, number: int, value: Any) -> Row:
    if not isinstance(value, dict):
        return Row(str(path), number, {}, f"not a JSON object: a {type(value).__name__}")
    return Row(str(path), number, value)


def _parquet_files(folder: Path, split: str | None) -> list[Path]:
    """The parquet files below a folder that belong to the split: `train-00000-of-00002.parquet`, `train.parquet`, …"""
    files = sorted(folder.rglob("*.parquet"))
    if not files:
        raise DataError(f"{folder} holds no parquet files and is no data set saved by `save_to_disk`")
    by_split: dict[str, list[Path]] = {}
    for file in files:
        sharded = re.fullmatch(r"(.+)-\d+-of-\d+", file.stem)
        names = [sharded[1] if sharded else file.stem, file.parent.name if file.parent != folder else ""]
        known = next((name for name in names if name in _SPLIT_NAMES), None)
        by_split.setdefault(known or (sharded[1] if sharded else ""), []).append(file)
    splits = ", ".join(repr(name) for name in by_split if name)
    if split is not None:
        if split not in by_split:
            raise DataError(f"{folder} has no split {split!r}; there are: {splits or 'none'}")
        return by_split[split]
    if len(by_split) > 1:
        raise DataError(f"{folder} holds several splits ({splits}); choose one with `split`")
    return files


def _parquet(files: list[Path]) -> Table:
    columns: dict[str, None] = {}
    for file in files:
        try:
            columns.update(dict.fromkeys(pq.read_schema(file).names))
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(file, error) from error
    return Table(tuple(columns), _parquet_rows(files))


def _parquet_rows(files: list[Path]) -> Iterator[Row]:
    for file in files:
        number = 0
        try:
            with pq.ParquetFile(file) as opened:
                for batch in opened.iter_batches(batch_size=_ROWS_AT_ONCE):
                    for values in batch.to_pylist():
                        yield Row(str(file), number, values)
                        number += 1
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(file, error) from error


def _saved_dataset(path: Path, split: str | None) -> Table:
    from datasets import DatasetDict, load_from_disk

    try:
        saved = load_from_disk(str(path))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error
    if isinstance(saved, DatasetDict):
        splits = ", ".join(map(repr, saved))
        if split is None and len(saved) > 1:
            raise DataError(f"{path} holds several splits ({splits}); choose one with `split`")
        if split is not None and split not in saved:
            raise DataError(f"{path} has no split {split!r}; there are: {splits}")
        saved = saved[split or next(iter(saved))]
    elif split is not None:
        raise DataError(f"split {split!r} asked of {path}, which has no splits; leave it out")
    return Table(tuple(saved.column_names), _saved_rows(path, saved))


def _saved_rows(path: Path, saved: Dataset) -> Iterator[Row]:
    # In arrow format an image stays as it is stored: `{"bytes", "path"}`.
    number = 0
    for batch in saved.with_format("arrow").iter(batch_size=_ROWS_AT_ONCE):
        for values in batch.to_pylist():
            yield Row(str(path), number, values)
            number += 1


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} cannot be read ({error}); it may be damaged or cut short: copy or download it again")
