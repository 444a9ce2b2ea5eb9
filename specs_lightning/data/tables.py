"""Rows out of the kinds of file that data sets come in: JSONL, JSON, CSV, parquet, and data sets of `datasets`.

Rows arrive as plain Python values, one after the other, and only a JSON array is in memory as a whole: a file may hold
images as text. Images stay encoded, and no cache is written anywhere.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from specs_lightning.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

_ROWS_AT_ONCE = 64
_BUFFER_BYTES = 2**20
_START_BYTES = 4096
_SPLIT_NAMES = {"train", "test", "testmini", "validation", "val", "dev"}


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file.

    Args:
        number: rows counted from 1 in a JSONL or CSV file (blank lines and the header are none), from 0 in any other.
        problem: why there are no values, where the row could not be read.
    """

    file: str
    number: int
    values: dict[str, Any]
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """The columns of a data set, how many rows it has, and these, which can be gone through once."""

    columns: tuple[str, ...]
    size: int
    rows: Iterator[Row]


def read_table(path: Path, split: str | None = None) -> Table:
    """The rows of a JSONL, JSON, CSV or parquet file, of a folder of parquet files, or of a saved data set.

    The split is that of a saved `DatasetDict` or of a folder whose files are named by split. `DataError` where there is
    none such, or it cannot be read; damage inside a parquet file shows when its rows are gone through.
    """
    try:
        return _read(path, split)
    except OSError as error:  # not to be read, too long a name, a loop of links
        raise _unreadable(path, error) from error


def _read(path: Path, split: str | None) -> Table:
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
    if path.suffix in (".csv", ".tsv"):
        return _csv(path)
    raise DataError(f"{path} is no JSONL (.jsonl), JSON (.json), CSV (.csv) or parquet (.parquet) file: convert it")


def read_hub(name: str, split: str | None, revision: str | None = None) -> Table:
    """The rows of a data set of the Hugging Face hub, `OWNER/NAME` or `OWNER/NAME:CONFIGURATION`, or of its cache; the
    newest revision if none is given."""
    from datasets import load_dataset

    repository, _, configuration = name.partition(":")
    try:
        found = load_dataset(repository, configuration or None, split=split, revision=revision)
    except Exception as error:  # whatever the hub, the network or a damaged cache make it raise
        raise DataError(
            f"hf:{name} cannot be loaded ({type(error).__name__}: {str(error)[:300]}); check its name, "
            "`split`, `revision` and configuration, and HF_TOKEN for one that asks for consent, or download it and "
            "give the folder as `path`"
        ) from error
    return _of_datasets(f"hf:{name}", found)


def _csv(path: Path) -> Table:
    """A table with a header. It is gone through twice, so that an error shows before any row is used."""
    csv.field_size_limit(2**31 - 1)
    size = 0
    with _open_csv(path) as reader:
        columns = tuple(reader.fieldnames or ())
        for _ in reader:
            size += 1
    if len(set(columns)) != len(columns):
        raise DataError(f"{path} has columns of the same name: {', '.join(columns)}")
    return Table(columns, size, _csv_rows(path, len(columns)))


def _csv_rows(path: Path, n_columns: int) -> Iterator[Row]:
    with _open_csv(path) as reader:
        for number, values in enumerate(reader, 1):
            wrong = None in values or None in values.values()
            problem = f"other number of fields than the header: {n_columns} expected" if wrong else None
            yield Row(str(path), number, {} if wrong else values, problem)


@contextmanager
def _open_csv(path: Path) -> Iterator[csv.DictReader[str]]:
    line = 0
    try:
        with path.open(encoding=_encoding(path), newline="") as file:
            reader = csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",", strict=True)
            try:
                yield reader
            finally:
                line = reader.line_num
    except UnicodeError as error:
        raise DataError(f"{path} is not UTF-8 ({error}): save it as CSV UTF-8") from error
    except csv.Error as error:
        raise DataError(f"{path}, line {line}: {error}; check the quotes there") from error


def _json(path: Path) -> Table:
    with path.open("rb") as file:
        start = file.read(_START_BYTES).decode(_encoding(path), "ignore").lstrip()
    if start.startswith("[") and path.suffix == ".json":
        try:
            values = json.loads(path.read_bytes().decode(_encoding(path)))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path} is not valid JSON ({error}); mend it, or write one object a line") from error
        rows = [_as_row(path, index, value) for index, value in enumerate(values)]
        columns = dict.fromkeys(name for row in rows for name in row.values)
        return Table(tuple(columns), len(rows), iter(rows))
    size, columns = 0, {}
    for row in _json_lines(path):  # a column may begin in any row
        size += 1
        columns.update(dict.fromkeys(row.values))
    return Table(tuple(columns), size, _json_lines(path))


def _json_lines(path: Path) -> Iterator[Row]:
    """A row for each line that is not blank."""
    encoding = _encoding(path)
    number = 0
    with path.open("rb") as file:
        # Lines end at "\n" alone: `splitlines` would also cut at the line separators that JSON leaves unescaped.
        for line_number, line in enumerate(_lines(path, file, encoding), 1):
            if line.strip():
                number += 1
                yield _json_row(path, number, line_number, line)


def _lines(path: Path, file: IO[bytes], encoding: str) -> Iterator[bytes]:
    """The lines in UTF-8, in which a broken one concerns no other."""
    if encoding == "utf-8-sig":
        yield file.readline().removeprefix(codecs.BOM_UTF8)
        yield from file
        return
    try:
        for line in io.TextIOWrapper(file, encoding, newline="\n"):
            yield line.encode(errors="surrogatepass")
    except UnicodeError as error:
        raise DataError(f"{path} begins as {encoding}, and is not ({error}): save it as UTF-8") from error


def _encoding(path: Path) -> str:
    """UTF-8, with or without a byte-order mark, or UTF-16 or -32 by theirs or by their zeros."""
    with path.open("rb") as file:
        found = json.detect_encoding(file.read(4))
    return "utf-8-sig" if found == "utf-8" else found


def _json_row(path: Path, number: int, line_number: int, line: bytes) -> Row:
    try:
        return _as_row(path, number, json.loads(line))
    except (ValueError, RecursionError) as error:
        place = "" if number == line_number else f"line {line_number}: "
        return Row(str(path), number, {}, f"malformed JSON: {place}{error}")


def _as_row(path: Path, number: int, value: Any) -> Row:
    problem = None if isinstance(value, dict) else f"not a JSON object: a {type(value).__name__}"
    return Row(str(path), number, {} if problem else value, problem)


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
    size = 0
    for file in files:
        try:
            with pq.ParquetFile(file) as opened:
                columns.update(dict.fromkeys(opened.schema_arrow.names))
                size += opened.metadata.num_rows
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(file, error) from error
    return Table(tuple(columns), size, _parquet_rows(files))


def _parquet_rows(files: list[Path]) -> Iterator[Row]:
    for file in files:
        try:
            # Read as it is needed: whole row groups of images, fetched ahead, would fill the memory.
            with pq.ParquetFile(file, pre_buffer=False, buffer_size=_BUFFER_BYTES) as opened:
                yield from _numbered(str(file), opened.iter_batches(batch_size=_ROWS_AT_ONCE))
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(file, error) from error


def _saved_dataset(path: Path, split: str | None) -> Table:
    from datasets import load_from_disk

    try:
        saved = load_from_disk(str(path))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error
    if split is not None and not isinstance(saved, dict):
        raise DataError(f"split {split!r} asked of {path}, which has no splits; leave it out")
    return _of_datasets(str(path), saved, split)


def _of_datasets(place: str, found: Dataset | DatasetDict, split: str | None = None) -> Table:
    """What `datasets` has read; of several splits, one."""
    if isinstance(found, dict):
        splits = ", ".join(map(repr, found))
        if split is None and len(found) > 1:
            raise DataError(f"{place} holds several splits ({splits}); choose one with `split`")
        if split is not None and split not in found:
            raise DataError(f"{place} has no split {split!r}; there are: {splits}")
        found = found[split or next(iter(found))]
    # In arrow format an image stays as it is stored: `{"bytes", "path"}`.
    batches = found.with_format("arrow").iter(batch_size=_ROWS_AT_ONCE)
    return Table(tuple(found.column_names), len(found), _numbered(place, batches))


def _numbered(path: str, batches: Iterable[Any]) -> Iterator[Row]:
    rows = chain.from_iterable(map(_values, batches))
    return (
        Row(path, number, {}, row) if isinstance(row, str) else Row(path, number, row)
        for number, row in enumerate(rows)
    )


def _values(batch: Any) -> list[dict[str, Any] | str]:
    """The rows of a batch or table, each by itself where one cannot be read: then what is wrong with it."""
    try:
        return list(batch.to_pylist())
    except Exception as error:  # text that is not UTF-8, a date that Python does not have
        if len(batch) == 1:
            return [f"unreadable row: {type(error).__name__}: {error}"]
        return [row for number in range(len(batch)) for row in _values(batch.slice(number, 1))]


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} cannot be read ({error}); it may be damaged or cut short: copy or download it again")
