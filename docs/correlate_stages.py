"""Is a better model after one stage a better one after another? Correlations over all runs of a comparison:

python docs/correlate_stages.py runs/ablations/comparison.json cold_start final [--without dpo]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from scipy import stats

FIGURES = ("solved_id", "solved_ood", "correct_id", "generalization_factor")


def values_of(rows: list[dict[str, Any]], figure: str) -> dict[tuple[str, str], float]:
    """The figure of each run, by experiment and seed; runs that share a stage share its figure."""
    return {
        (name, seed): value
        for row in rows
        for name in (row["experiment"], *row["alike"])
        for seed, value in row["values"].get(figure, {}).items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("comparison", type=Path, help="comparison.json of specs compare")
    parser.add_argument("before", help="a stage")
    parser.add_argument("after", help="a later stage")
    parser.add_argument("--without", nargs="*", default=[], help="experiments to leave out")
    arguments = parser.parse_args()
    stages = json.loads(arguments.comparison.read_text())["stages"]
    for figure in FIGURES:
        before, after = (values_of(stages[name], figure) for name in (arguments.before, arguments.after))
        runs = [run for run in after if run in before and run[0] not in arguments.without]
        x, y = [before[run] for run in runs], [after[run] for run in runs]
        found = stats.pearsonr(x, y)
        low, high = found.confidence_interval()
        slope = stats.linregress(x, y).slope
        ranks = stats.spearmanr(x, y).statistic
        print(
            f"{figure}: r = {found.statistic:.2f} ({low:.2f} to {high:.2f}), p = {found.pvalue:.4f}, "
            f"rank correlation {ranks:.2f}, slope {slope:.2f}, {len(runs)} runs"
        )


if __name__ == "__main__":
    main()
