"""Kills a run of the whole method at random moments, has it go on each time, and compares all that it wrote with what a
run wrote that was left alone.

    python benchmarks/kill_anywhere.py [--kills 20] [--config configs/toy/smoke.yaml]

On one thread in float32 the two must be the same, bit for bit: weights, metrics, samples, answers, candidates and pairs
(times apart). A run that ends before it was killed often enough is compared, and the next one begins. Each attempt is a
process of its own, forked from one that has imported everything, so that kills hit the work and not the imports.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import multiprocessing
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from specs_lightning.records.metrics import is_timing

ROOT = Path(__file__).parent.parent
SAME = ("*.safetensors", "*.jsonl", "*.parquet", "config.yaml", "results.json")
"""What must be the same to the last byte."""


def forking() -> Any:
    """Processes that have imported everything."""
    # Not torch.set_num_threads, whose pool a process forked from this one would make anew, in several threads at once.
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["specs_lightning.runs.warm", "specs_lightning.runs.pipeline"])
    return context


def attempt(config: Path, folder: Path) -> None:
    """`specs run` in `folder/run`; what it says goes to `folder/log`."""
    with (folder / "log").open("ab", buffering=0) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    from specs_lightning.cli import main
    from specs_lightning.runs import processes

    processes.CONTEXT = multiprocessing.get_context("fork")  # this process is itself one that stages can be forked from
    os.chdir(folder)
    main(["run", f"--config={config}", "--run_dir=run"])


def start(config: Path, folder: Path) -> Any:
    """An attempt, on its way; `folder` becomes its working directory."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "configs").exists():
        (folder / "configs").symlink_to(ROOT / "configs")
    process = forking().Process(target=attempt, args=(config.resolve(), folder.resolve()))
    process.start()
    return process


def left_alone(config: Path, folder: Path) -> float:
    """How many seconds a run takes that nobody kills; imports, which are done once for all, apart."""
    imports = forking().Process(target=os.getpid)
    imports.start()
    imports.join()
    begun = time.monotonic()
    process = start(config, folder)
    process.join()
    check_ended(process.exitcode, folder)
    return time.monotonic() - begun


def check_ended(code: int | None, folder: Path) -> None:
    if code != 0:
        raise SystemExit(f"the run in {folder} failed with status {code}:\n{(folder / 'log').read_text()[-3000:]}")


def killed(config: Path, folder: Path, moments: Iterator[float]) -> list[str]:
    """Run to the end, killed after each of the seconds that `moments` gives; where it was killed."""
    places: list[str] = []
    while True:
        process = start(config, folder)
        process.join(next(moments, None))
        if process.exitcode is not None:
            check_ended(process.exitcode, folder)
            return places
        process.kill()
        process.join()
        places.append(place(folder / "run"))
        print(f"{folder.name}, kill {len(places)}: {places[-1]}", flush=True)


def place(run: Path) -> str:
    """What was being done when it was killed, by what is on the disk."""
    for file in sorted(run.glob("*/stage.json"), key=lambda file: file.stat().st_mtime_ns, reverse=True):
        stage, status = file.parent, json.loads(file.read_text())["status"]
        if status == "finished":
            return f"after {stage.name}"
        if status == "trained":
            return f"{stage.name}: evaluation"
        steps = [int(file.stem.partition("=")[2]) for file in stage.glob("checkpoints/step=*.ckpt")]
        return f"{stage.name}: after step {max(steps)}" if steps else f"{stage.name}: before a checkpoint"
    return "before the first stage"


def contents(run: Path) -> dict[str, str]:
    """A digest of each file that two equal runs have alike."""
    files = [file for pattern in SAME for file in run.rglob(pattern)]
    digests = {str(file.relative_to(run)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    for file in run.rglob("metrics.csv"):
        digests[str(file.relative_to(run))] = hashlib.sha256(without_times(file).encode()).hexdigest()
    return digests


def without_times(metrics: Path) -> str:
    with metrics.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return json.dumps([{k: v for k, v in row.items() if not is_timing(k)} for row in rows])


def differences(run: Path, other: Path) -> list[str]:
    """The files that are not alike."""
    first, second = contents(run), contents(other)
    return sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))


def leftovers(run: Path) -> list[str]:
    """Files that were being written when it was killed, and nobody took away."""
    return [str(file) for ending in ("partial", "replaced") for file in run.rglob(f"*.{ending}")]


@dataclass
class Found:
    """What came of all runs."""

    seconds_alone: float = 0.0
    seconds: float = 0.0
    runs: int = 0
    places: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    files: int = 0
    leftovers: list[str] = field(default_factory=list)


def kill_anywhere(
    config: Path, kills: int, folder: Path, alone: Path, seconds_alone: float, longest_share: float = 0.3
) -> Found:
    """Kill at so many random moments, each after up to a share of the time that a whole run takes.

    Args:
        config: of the run.
        kills: how many; a run that ends before is followed by another.
        folder: for the runs that are killed.
        alone: the run that was left alone.
        seconds_alone: how long that took.
        longest_share: of that time, until the next kill.
    """
    found = Found(seconds_alone=seconds_alone, files=len(contents(alone)))
    begun = time.monotonic()
    while len(found.places) < kills:
        found.runs += 1
        name = f"killed-{found.runs}"
        left = kills - len(found.places)
        moments = (random.uniform(0, longest_share * seconds_alone) for _ in range(left))
        found.places += killed(config, folder / name, moments)
        run = folder / name / "run"
        found.differing += [f"{name}/{file}" for file in differences(alone, run)]
        found.leftovers += leftovers(run)
    found.seconds = time.monotonic() - begun
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--config", type=Path, default=ROOT / "configs/toy/smoke.yaml")
    parser.add_argument("--folder", type=Path, help="where the runs stay; a temporary one if not given")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        seconds = left_alone(args.config, folder / "alone")
        found = kill_anywhere(args.config, args.kills, folder, folder / "alone" / "run", seconds)
    print(f"left alone: {found.seconds_alone:.0f} s, {found.files} files compared")
    print(f"{len(found.places)} kills in {found.runs} runs, {found.seconds:.0f} s:")
    for where, times in Counter(found.places).most_common():
        print(f"  {times:3} {where}")
    print(f"files that differ: {', '.join(found.differing) or 'none'}")
    print(f"left behind: {', '.join(found.leftovers) or 'nothing'}")
    if found.differing or found.leftovers:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
