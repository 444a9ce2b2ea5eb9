"""Metrics that belong together share a figure; a metric of the user's own has one, too."""

from __future__ import annotations

from specs_lightning.records.metrics import Series
from specs_lightning.report.panels import PANELS, overlaid, stage_curves


def series(*values: float) -> Series:
    return Series(tuple(range(len(values))), values)


def test_metrics_that_belong_together_share_a_panel() -> None:
    names = ["train/reward", "train/rewards/format/mean", "train/rewards/chosen", "gf/ood_a/solved", "gf/id/solved"]
    panels = {one.panel.title: list(one.series) for one in stage_curves({name: series(1.0) for name in names})}
    assert panels == {
        "Reward": ["reward", "format"],
        "Implicit reward": ["chosen"],
        "Solved, by set": ["ood_a", "id"],
    }


def test_kinds_of_sets_have_panels_of_their_own() -> None:
    names = [f"gf/{name}{end}" for name in ("generalization_factor", "gain_ood") for end in ("", "/looks", "/tasks")]
    panels = {
        one.panel.title: list(one.series)
        for one in stage_curves({name: series(1.0) for name in [*names, "gf/looks/dark/solved"]})
    }
    assert panels == {
        "Generalization Factor and gains": ["generalization factor", "gain ood"],
        "Generalization Factor, by kind of sets": ["looks", "tasks"],
        "Gain out of distribution, by kind of sets": ["looks", "tasks"],
        "Solved, by set": ["looks/dark"],
    }


def test_stages_are_laid_over_each_other_generalisation_first_and_loss_last() -> None:
    zero = {"train/loss": series(1.0), "gf/gain_id": series(0.1), "mine/x": series(2.0)}
    stages = {"base": {}, "zero": zero, "sft": {"train/loss": series(3.0)}}
    found = overlaid(stages, {"base": 0, "zero": 1, "sft": 2})
    assert [(one.panel.title, one.series) for one in found] == [
        ("Gain in distribution", {"zero": series(0.1)}),
        ("Loss", {"zero": series(1.0), "sft": series(3.0)}),
    ]


def test_a_metric_of_the_users_own_has_a_panel_and_bookkeeping_has_none() -> None:
    (curves,) = stage_curves({"blank_image/drop": series(1.0), "epoch": series(0.0)})
    assert (curves.panel.title, curves.panel.minor) == ("blank_image/drop", True)


def test_panels_come_in_their_order_and_those_of_the_users_last() -> None:
    names = ["mine/x", "train/lr", "train/reward", "train/loss"]
    found = [one.panel.title for one in stage_curves({name: series(1.0) for name in names})]
    assert found == ["Loss", "Reward", "Learning rate", "mine/x"]


def test_ends_of_an_interval_are_no_series_and_a_lone_end_is_one() -> None:
    ends = {f"gf/gain_id{end}": series(value) for end, value in (("", 0.5), ("_low", 0.4), ("_high", 0.7))}
    gains, alone = stage_curves({**ends, "mine/x_low": series(1.0)})
    assert gains.series == {"gain id": series(0.5)}
    assert gains.intervals == {"gain id": (series(0.4), series(0.7))}
    assert (alone.panel.title, alone.series) == ("mine/x_low", {"mine/x low": series(1.0)})


def test_no_metric_is_drawn_twice() -> None:
    """One that fits several patterns is the first panel's."""
    names = [column.replace("*", "ood") for panel in PANELS for column in panel.columns]
    drawn = [label for one in stage_curves({name: series(1.0) for name in names}) for label in one.series]
    assert len(drawn) == len(set(names))
