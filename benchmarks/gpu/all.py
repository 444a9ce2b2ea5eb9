"""Every benchmark of this folder on one GPU, each with a time limit, 8 minutes in all, and a table of what they say.

    python benchmarks/gpu/all.py [--output FOLDER] [--device cuda] [--shape Qwen2.5-VL-3B]

Lines go to `FOLDER/NAME.jsonl` as they come, so that a run that is cut off has told what it measured; the table, which
is for `docs/benchmarks.md`, to `FOLDER/table.md`. On a CPU with `--shape toy:base` it shows that everything runs.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
LIMITS = {"decode": 60, "step": 90, "plan": 90, "compare": 200, "attention": 40}
"""Seconds; attention last, since it compiles."""


def arguments(name: str, device: str, shape: str) -> list[str]:
    given = [f"--device={device}"] + ([f"--shape={shape}"] if name != "attention" else [])
    if device != "cpu":
        return [*given, "--seconds=45"] if name == "compare" else given
    small = {
        "decode": ["--sequences", "8", "--tokens", "6"],
        "step": ["--lengths", "8", "--vocabularies", "512", "--repeats", "1"],
        "plan": ["--lengths", "8"],
        "compare": ["--seconds=300", f"--sizes={json.dumps([{'kind': k, 'groups': 1, 'tokens': 12} for k in KINDS])}"],
        "attention": ["--prompt", "16", "--completions", "2", "--length", "8"],
    }
    return [*given, *small[name]]


KINDS = ("dpo", "grpo")


def run(name: str, given: list[str], folder: Path, limit: float | None) -> tuple[list[dict[str, Any]], str]:
    """The lines that a benchmark printed, and how it ended."""
    begun = time.monotonic()
    with (folder / f"{name}.jsonl").open("w") as out, (folder / f"{name}.log").open("w") as log:
        command = [sys.executable, str(HERE / f"{name}.py"), *given]
        process = subprocess.Popen(command, stdout=out, stderr=log, start_new_session=True)
        try:
            ended = f"exit status {process.wait(limit)}"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with what it has started, which would keep the GPU
            process.wait()
            ended = "cut off"
    lines = (folder / f"{name}.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines if line.startswith("{")]
    return found, f"{ended} after {time.monotonic() - begun:.0f} s"


def table(name: str, rows: list[dict[str, Any]], ended: str) -> str:
    """Of one benchmark, in Markdown."""
    names = list(dict.fromkeys(key for row in rows for key in row))
    lines = [f"### {name} ({ended})", ""]
    if rows:
        lines += [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
        lines += [f"| {' | '.join(_cell(row.get(key)) for key in names)} |" for row in rows]
    return "\n".join([*lines, ""])


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_cell(number)}" for key, number in value.items())
    return "" if value is None else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("gpu_benchmarks"))
    parser.add_argument("--device", default="cuda", help="cuda or cpu")
    parser.add_argument("--shape", default="Qwen2.5-VL-3B")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    tables = []
    for name, limit in LIMITS.items():
        given = arguments(name, args.device, args.shape)
        tables.append(table(name, *run(name, given, args.output, limit if args.device != "cpu" else None)))
        print(tables[-1], flush=True)
        (args.output / "table.md").write_text("\n".join(tables))


if __name__ == "__main__":
    main()
