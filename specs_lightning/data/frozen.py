"""Frozen data sets: usable rows in one parquet file that holds the images, for the schema `frozen`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from specs_lightning.data.sources import RowReader
from specs_lightning.data.tables import Row
from specs_lightning.groups import Prompt
from specs_lightning.system.files import atomic

ROWS_IN_A_GROUP = 128
_PARTS = pa.struct([("role", pa.string()), ("content", pa.string())])
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
FROZEN = pa.schema(
    [
        *((name, pa.string()) for name in ("id", "answer", "answer_type", "answer_format", "metadata")),
        ("messages", pa.list_(_PARTS)),
        ("images", pa.list_(_IMAGE)),
        ("single_image", pa.bool_()),
        ("choices", pa.list_(pa.string())),
        ("precision", pa.int64()),
    ]
)
"""The columns of a frozen file, which the schema `frozen` reads."""


@contextmanager
def freezing(file: Path, reader: RowReader) -> Iterator[Callable[[Row, Prompt], None]]:
    """What adds a usable row to a parquet file that appears whole or not at all."""
    rows: list[dict[str, Any]] = []

    def add(row: Row, prompt: Prompt) -> None:
        rows.append(reader.frozen(row, prompt))
        if len(rows) == ROWS_IN_A_GROUP:
            flush()

    def flush() -> None:
        writer.write_table(pa.Table.from_pylist(rows, FROZEN))
        rows.clear()

    with atomic(file) as partial, pq.ParquetWriter(partial, FROZEN) as writer:
        yield add
        flush()


def split(file: Path, held_out: Sequence[bool], train: Path, other: Path) -> None:
    """Write the rows of a frozen file to two: those that are held out to `other`."""
    place = 0
    with (
        pq.ParquetFile(file) as whole,
        atomic(train) as train_partial,
        atomic(other) as other_partial,
        pq.ParquetWriter(train_partial, FROZEN) as train_writer,
        pq.ParquetWriter(other_partial, FROZEN) as other_writer,
    ):
        for batch in whole.iter_batches(batch_size=ROWS_IN_A_GROUP):
            flags = held_out[place : place + len(batch)]
            place += len(batch)
            for writer, wanted in ((train_writer, False), (other_writer, True)):
                part = batch.filter(pa.array([flag is wanted for flag in flags]))
                if len(part):
                    writer.write_batch(part)
