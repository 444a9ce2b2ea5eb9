"""Draw the curves of toy runs over their seeds: `python docs/draw_toy_curves.py RUN…` writes images/toy_curves.svg.

A panel shows a rate over the steps of each stage: the mean of the runs, and between their least and greatest.
"""

from __future__ import annotations

import csv
import sys
from collections import defaultdict
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

STAGES = {"zero": "zero", "cold_start": "DPO + SFT", "sft": "SFT (control)", "final": "final"}
OOD = ("formats/boxed", "formats/json", "formats/tags")
PANELS = {
    "Format kept, ID": ("format_kept", ("id",)),
    "Format kept, OOD": ("format_kept", OOD),
    "Correct, ID": ("correct", ("id",)),
    "Correct, OOD": ("correct", OOD),
}


def curve(file: Path, measure: str, sets: tuple[str, ...]) -> dict[int, float]:
    """The measure's mean over the sets, in percent, by step."""
    with file.open(newline="") as opened:
        rows = [row for row in csv.DictReader(opened) if row[f"gf/{sets[0]}/{measure}"]]
    return {
        int(row["step"]): 100 * sum(float(row[f"gf/{name}/{measure}"]) for name in sets) / len(sets) for row in rows
    }


def main(runs: list[Path]) -> None:
    plt.rcParams["svg.hashsalt"] = "toy"
    figure, axes = plt.subplots(len(PANELS), len(STAGES), figsize=(11, 9), sharey=True, squeeze=False)
    for row, (title, (measure, sets)) in zip(axes, PANELS.items(), strict=True):
        for axis, (stage, label) in zip(row, STAGES.items(), strict=True):
            values = defaultdict(list)
            for run in runs:
                for step, value in curve(run / stage / "metrics.csv", measure, sets).items():
                    values[step].append(value)
            steps = sorted(step for step, of_runs in values.items() if len(of_runs) == len(runs))
            axis.plot(steps, [sum(values[s]) / len(values[s]) for s in steps], marker=".")
            axis.fill_between(steps, [min(values[s]) for s in steps], [max(values[s]) for s in steps], alpha=0.25)
            axis.set(ylim=(0, 100), title=label if axis in axes[0] else None)
            axis.grid(alpha=0.3)
        row[0].set_ylabel(f"{title}, %")
    for axis in axes[-1]:
        axis.set_xlabel("step")
    figure.tight_layout()
    figure.savefig(Path(__file__).parent / "images" / "toy_curves.svg", metadata={"Date": None})


if __name__ == "__main__":
    main([Path(run) for run in sys.argv[1:]])
