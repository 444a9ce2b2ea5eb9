"""Rows a second and peak memory of `specs data check` on a parquet file with images, made on the spot.

    python benchmarks/data_check.py --rows 50000

Prints a JSON object a line, for each number of rows; the peak is that of the process so far. The file, noise as PNG,
stays in the folder and is used again.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import sys
import time
from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq

import specs_lightning.data.check as data_check
from specs_lightning.data.sources import PromptSource
from specs_lightning.prompts.encoder import PromptEncoder
from specs_lightning.prompts.set_aside import SetAside
from specs_lightning.scoring.golds import GoldCheck
from specs_lightning.system.terminal import console

ROWS_IN_A_GROUP = 100


def make_file(file: Path, rows: int, pixels: int, form: str = "PNG") -> None:
    """Questions with one noisy image each, no two alike."""
    rng = np.random.default_rng(0)
    with pq.ParquetWriter(file.with_suffix(".partial"), SCHEMA) as writer:
        for start in range(0, rows, ROWS_IN_A_GROUP):
            numbers = range(start, min(start + ROWS_IN_A_GROUP, rows))
            writer.write_table(pa.Table.from_pylist([make_row(n, pixels, rng, form) for n in numbers], SCHEMA))
    file.with_suffix(".partial").replace(file)


SCHEMA = pa.schema([("id", pa.string()), ("question", pa.string()), ("answer", pa.string()), ("image", pa.binary())])


def make_row(number: int, pixels: int, rng: np.random.Generator, form: str) -> dict[str, object]:
    image = io.BytesIO()
    noise = rng.integers(0, 255, (pixels, pixels, 3), dtype=np.uint8)
    PIL.Image.fromarray(noise).save(image, form, compress_level=1)
    question = f"<image>How many of the {number} dots in the picture are red?"
    return {"id": str(number), "question": question, "answer": str(number % 10), "image": image.getvalue()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[50_000])
    parser.add_argument("--pixels", type=int, default=128, help="width and height of each image")
    parser.add_argument("--folder", type=Path, default=Path("runs/data-check-benchmark"))
    parser.add_argument("--workers", type=int)
    parser.add_argument("--freeze", action="store_true")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    console.stderr = True
    encoder = data_check._encoder("toy:base")
    for rows in args.rows:
        json.dump(measure(args.folder, rows, args.pixels, encoder, args.freeze, args.workers), sys.stdout)
        print()


def measure(
    folder: Path, rows: int, pixels: int, encoder: PromptEncoder, freeze: bool, workers: int | None
) -> dict[str, float]:
    """Check one file, and say how fast that was and what memory it took."""
    file = folder / f"{rows}x{pixels}.parquet"
    if not file.exists():
        make_file(file, rows, pixels)
    frozen = folder / "frozen.parquet" if freeze else None
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, cpu = time.perf_counter(), time.process_time()
    with GoldCheck(workers) as golds:
        source = PromptSource(str(file))
        found = data_check.check_source("noise", source, golds, encoder, SetAside(), frozen, workers=workers)
    seconds = time.perf_counter() - start
    return {
        "rows": found.rows,
        "usable": found.usable,
        "file_mib": round(file.stat().st_size / 2**20, 1),
        "seconds": round(seconds, 1),
        "rows_per_second": round(found.rows / seconds, 1),
        "rows_per_cpu_second": round(found.rows / (time.process_time() - cpu), 1),
        "before_mib": round(before / 2**10, 1),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10, 1),
    }


if __name__ == "__main__":
    main()
