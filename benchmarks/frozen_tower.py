"""What it saves to keep what a frozen vision tower made of an image: CPU seconds of a step, with and without, in turns.

    python benchmarks/frozen_tower.py --peers ../shared/peers/trl [--workloads S,M] [--repeats 3]

The work is that of `compare.py`, but for the vision tower, which is not trained.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from workloads import WORKLOADS, run_child

STEPS = {"dpo": (2, 8), "grpo-hf": (1, 4)}
"""To warm up, and measured."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--peers", type=Path, required=True)
    parser.add_argument("--workloads", default="S,M")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    for name in args.workloads.split(","):
        workload = WORKLOADS[name]
        with tempfile.TemporaryDirectory() as folder:
            workload.write(args.peers, Path(folder))
            for mode, (warmup, steps) in STEPS.items():
                command = [sys.executable, str(Path(__file__).parent / "ours.py"), f"--mode={mode}"]
                command += [f"--folder={folder}", f"--workload={json.dumps(asdict(workload))}"]
                command += [f"--warmup={warmup}", f"--steps={steps}"]
                towers = ("frozen, run anew", "frozen")
                runs = [[run_child([*command, f"--tower={t}"])["cpu_s"] for t in towers] for _ in range(args.repeats)]
                anew, kept = (statistics.median(column) for column in zip(*runs, strict=True))
                print(
                    f"{name}, {mode}: {anew:.3f} s a step anew, {kept:.3f} kept, {anew / kept:.2f} times; all: {runs}"
                )


if __name__ == "__main__":
    main()
