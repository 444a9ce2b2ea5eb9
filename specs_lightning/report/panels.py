"""Which logged metrics share a figure: the small multiples of a fit stage, and stages laid over each other."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, field

from specs_lightning.records.metrics import Series


@dataclass(frozen=True)
class Panel:
    """One figure: the columns that it draws (patterns with at most one star), and how.

    Args:
        percent: the values are shares, drawn as percent.
        limits: of the values' axis; what the values take if not given.
        minor: for the engine room; the page folds it away.
    """

    title: str
    columns: tuple[str, ...]
    percent: bool = False
    minor: bool = False
    limits: tuple[float, float] | None = None


@dataclass(frozen=True)
class Curves:
    """A panel filled with series, by label; and the bands around those that have one.

    `colours` are the numbers of their colours; in the order of the series if not given.
    """

    panel: Panel
    series: dict[str, Series]
    intervals: dict[str, tuple[Series, Series]] = field(default_factory=dict)
    bands: str = "95 % intervals"
    colours: Mapping[str, int] = field(default_factory=dict)

    def __hash__(self) -> int:
        """Figures are kept by what they draw."""
        series = *self.series.items(), *self.intervals.items()
        return hash((self.panel, series, self.bands, tuple(self.colours.items())))


PANELS = (
    Panel("Loss", ("train/loss", "train/sft_loss")),
    Panel("Reward", ("train/reward", "train/rewards/*/mean")),
    Panel("Implicit reward", ("train/rewards/chosen", "train/rewards/rejected", "train/rewards/margins")),
    Panel("Preference accuracy", ("train/rewards/accuracies",), percent=True),
    Panel("Generalization Factor and gains", ("gf/generalization_factor", "gf/gain_id", "gf/gain_ood"), percent=True),
    Panel("Generalization Factor, by kind of sets", ("gf/generalization_factor/*",), percent=True),
    Panel("Gain out of distribution, by kind of sets", ("gf/gain_ood/*",), percent=True),
    Panel("Solved, by set", ("gf/*/solved",), percent=True),
    Panel("Correct, by set", ("gf/*/correct",), percent=True),
    Panel("Format kept, by set", ("gf/*/format_kept",), percent=True),
    Panel("Pass@k, in distribution", ("gf/id/pass_at_*",), percent=True),
    Panel("Stuck, by set", ("gf/*/stuck_rate",), percent=True),
    Panel("Rollout branching factor, by set", ("gf/*/rollout_branching_factor",)),
    Panel("Entropy, by set", ("gf/*/entropy",)),
    Panel("Tokens per answer, by set", ("gf/*/tokens",), minor=True),
    Panel("Entropy", ("train/entropy",)),
    Panel("Tokens per completion", ("train/completions/mean_length",)),
    Panel("Gradient norm", ("train/grad_norm",), minor=True),
    Panel("Shortest and longest completion", ("train/completions/*_length",), minor=True),
    Panel("Cut off by the length limit", ("train/completions/clipped_ratio",), percent=True, minor=True),
    Panel("Spread of rewards", ("train/reward_std",), minor=True),
    Panel("Groups of one reward", ("train/frac_reward_zero_std",), percent=True, minor=True),
    Panel("Tokens clipped", ("train/clip_ratio/*_mean",), percent=True, minor=True),
    Panel("Log-probabilities", ("train/logps/chosen", "train/logps/rejected"), minor=True),
    Panel("Learning rate", ("train/lr",), minor=True),
    Panel("Mismatch of engine and trainer", ("train/mismatch/mean", "train/mismatch/max"), minor=True),
    Panel("Effective sample size", ("train/mismatch/effective_sample_size",), percent=True, minor=True),
)

OVERLAID = (
    Panel("Generalization Factor Γ", ("gf/generalization_factor",), percent=True),
    Panel("Gain in distribution", ("gf/gain_id",), percent=True),
    Panel("Gain out of distribution", ("gf/gain_ood",), percent=True),
    Panel("Reward", ("train/reward",)),
    Panel("Loss", ("train/loss",)),
)
"""What stages are compared by while they train, the most telling first."""


def overlaid(stages: Mapping[str, Mapping[str, Series]], colours: Mapping[str, int]) -> list[Curves]:
    """Each panel that any stage has data for, with the stages' curves in it, which keep their colours throughout."""
    curves = []
    for panel in OVERLAID:
        (column,) = panel.columns
        found = {name: metrics[column] for name, metrics in stages.items() if column in metrics}
        if found:
            curves.append(Curves(panel, found, colours=colours))
    return curves


def stage_curves(metrics: dict[str, Series]) -> list[Curves]:
    """The panels that a stage has data for, then one for every further metric, so that a user's own appear too."""
    left = dict(metrics)
    ends = {
        name: (left.pop(f"{name}_low"), left.pop(f"{name}_high"))
        for name in metrics
        if f"{name}_low" in metrics and f"{name}_high" in metrics
    }

    def take(panel: Panel, labels: dict[str, str]) -> Curves:
        series = {label: left.pop(name) for name, label in labels.items()}
        return Curves(panel, series, {label: ends[name] for name, label in labels.items() if name in ends})

    curves = []
    for panel in PANELS:
        found = {name: _label(name, pattern) for pattern in panel.columns for name in fnmatch.filter(left, pattern)}
        if found:
            curves.append(take(panel, found))
    own = [name for name in left if "/" in name]  # others are Lightning's bookkeeping, such as `epoch`
    return curves + [take(Panel(name, (name,), minor=True), {name: _words(name)}) for name in own]


def _label(name: str, pattern: str) -> str:
    """What tells a column from the others of its panel: the part that the star stands for, else its last word."""
    if "*" not in pattern:
        return _words(name.rpartition("/")[2])
    before, _, after = pattern.partition("*")
    return name[len(before) : len(name) - len(after)]


def _words(name: str) -> str:
    return name.replace("_", " ")
