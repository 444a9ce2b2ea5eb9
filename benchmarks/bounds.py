"""Time and memory of what is large: an image of 400 megapixels, a parquet file of 200 MB, 86,000 prompts.

    python benchmarks/bounds.py [--scale 1]

Prints a JSON object a line: seconds, and by how many MiB this process's peak rose above what it held before; `--scale
0.1` makes files of a tenth of the size.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parents[1]))

from specs_lightning.data.sources import PromptSource, load_prompts
from specs_lightning.data.tables import read_table
from specs_lightning.prompts.images import BadImage, load_image
from specs_lightning.prompts.set_aside import SetAside

MIB = 2**20
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
SIDE = 20_000
"""Of the image: 400 megapixels."""


def chunk(kind: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")


def write_bomb(file: Path, side: int = SIDE) -> Path:
    """A whole PNG of one bit a pixel, all of them black: some 50 KB."""
    packed = zlib.compressobj()
    row = bytes(1 + (side + 7) // 8)
    rows = b"".join([*(packed.compress(row) for _ in range(side)), packed.flush()])
    header = side.to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    return file


def write_parquet(file: Path, mebibytes: int, in_a_group: int = 100) -> Path:
    """Questions with 40 KB of noise each in place of an image, in groups of rows."""
    rng = np.random.default_rng(0)
    schema = pa.schema(
        [("id", pa.string()), ("question", pa.string()), ("answer", pa.string()), ("noise", pa.binary())]
    )
    with pq.ParquetWriter(file, schema) as writer:
        for start in range(0, mebibytes * MIB // 40_000, in_a_group):
            numbers = range(start, start + in_a_group)
            rows = [[str(n) for n in numbers], ["?"] * in_a_group, ["1"] * in_a_group]
            writer.write_table(pa.table([*rows, [rng.bytes(40_000) for _ in numbers]], schema))
    return file


def write_prompts(file: Path, count: int) -> Path:
    with file.open("w") as out:
        for n in range(count):
            out.write(json.dumps({"id": f"p{n}", "question": f"What is {n} plus one?", "answer": str(n + 1)}) + "\n")
    return file


def refuse_bomb(file: Path) -> str:
    try:
        load_image(file)
    except BadImage as error:
        return str(error)
    raise SystemExit("it was decoded")


def read_rows(file: Path) -> str:
    return f"{sum(len(row.values['noise']) for row in read_table(file).rows) / MIB:.0f} MiB in rows"


def read_prompts(file: Path) -> str:
    return f"{len(load_prompts(PromptSource(str(file)), SetAside()))} prompts"


def status(name: str) -> int:
    (line,) = [line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:")]
    return int(line.split()[1]) * 1024


def measured(work: Callable[[Path], str], file: Path) -> dict[str, Any]:
    """What a piece of work came to, how long it took and what memory."""
    RESET.write_text("5")  # the peak is that from here on
    before, start = status("VmRSS"), time.perf_counter()
    came_to = work(file)
    seconds = time.perf_counter() - start
    return {"seconds": round(seconds, 2), "mib": round((status("VmHWM") - before) / MIB, 1), "came_to": came_to}


def works(folder: Path, scale: float) -> Iterator[tuple[str, Callable[[Path], str], Path]]:
    """Each by its name, with its file, which is written when it is its turn."""
    size = round(200 * scale)
    yield "image", refuse_bomb, write_bomb(folder / "bomb.png")
    yield "parquet", read_rows, write_parquet(folder / "groups.parquet", size)
    yield "parquet, one group", read_rows, write_parquet(folder / "one.parquet", size, size * MIB // 40_000)
    yield "prompts", read_prompts, write_prompts(folder / "prompts.jsonl", round(86_000 * scale))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--scale", type=float, default=1.0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name, work, file in works(Path(folder), args.scale):
            figures = {"file_mib": round(file.stat().st_size / MIB, 2), **measured(work, file)}
            print(json.dumps({"what": name, **figures}), flush=True)


if __name__ == "__main__":
    main()
