import base64

import numpy as np
import pytest

from specs_lightning.records.metrics import Series
from specs_lightning.report.figures import Drawing, draw_curves, draw_shares, moving_mean
from specs_lightning.report.panels import Curves, Panel, stage_curves
from specs_lightning.statistics.intervals import estimate


def series(*values: float) -> Series:
    return Series(tuple(range(len(values))), values)


def csv_of(uri: str) -> str:
    return base64.b64decode(uri.partition("base64,")[2]).decode()


def test_intervals_are_bands_of_their_metric_and_columns_of_its_data() -> None:
    metrics = {f"gf/gain_id{end}": series(value, value) for end, value in (("", 0.5), ("_low", 0.4), ("_high", 0.7))}
    (curves,) = stage_curves({**metrics, "gf/gain_ood": series(0.1, 0.2), "mine/x_low": series(1.0)})[:1]
    assert list(curves.series) == ["gain id", "gain ood"] and list(curves.intervals) == ["gain id"]
    drawing = draw_curves(curves, "zero")
    assert drawing.note == "Bands: 95 % intervals."
    assert csv_of(drawing.csv).splitlines()[:2] == [
        "step,gain id,gain ood,gain id low,gain id high",
        "0,0.5,0.1,0.4,0.7",
    ]


def test_a_figure_takes_the_colours_of_the_page_and_names_no_address() -> None:
    (curves,) = stage_curves({"train/loss": series(1.0, 0.5), "train/sft_loss": series(0.7, 0.3)})
    drawing = draw_curves(curves, "zero")
    assert drawing.legend == {"loss": 0, "sft loss": 1}
    assert drawing.svg.startswith("<svg viewBox=")
    for colour in ("var(--series-0)", "var(--series-1)", "var(--line)", "currentColor"):
        assert colour in drawing.svg
    assert "http" not in drawing.svg
    assert "#0d0e" not in drawing.svg


def test_what_is_drawn_again_is_kept_and_what_has_changed_is_drawn_anew() -> None:
    def drawn(value: float, end: float = 0.0, colour: int = 0) -> Drawing:
        intervals = {"loss": (series(end, end), series(1.0, 1.0))}
        curves = Curves(Panel("Loss", ()), {"loss": series(value, 0.5)}, intervals, colours={"loss": colour})
        return draw_curves(curves, "zero")

    first = drawn(1.0)
    assert drawn(1.0) is first
    for other in (drawn(2.0), drawn(1.0, 0.1), drawn(1.0, 0.0, 1)):
        assert other.svg != first.svg


def test_the_data_of_a_figure_is_a_csv_with_gaps_where_nothing_was_logged() -> None:
    metrics = {"train/loss": series(1.0, 0.5), "train/sft_loss": Series((1,), (0.25,))}
    (curves,) = stage_curves(metrics)
    assert csv_of(draw_curves(curves, "zero").csv) == "step,loss,sft loss\n0,1.0,\n1,0.5,0.25\n"


def test_long_series_are_smoothed_and_thinned_and_say_so() -> None:
    (curves,) = stage_curves({"train/loss": series(*np.sin(np.arange(5000.0)).tolist())})
    drawing = draw_curves(curves, "zero")
    assert "mean over 501 logged values" in drawing.note
    assert len(drawing.svg) < 60_000
    assert csv_of(drawing.csv).count("\n") == 5001


def test_a_series_of_nothing_finite_is_drawn_and_noted() -> None:
    (curves,) = stage_curves({"train/loss": series(float("nan"), float("nan"))})
    assert "2 values are not finite" in draw_curves(curves, "zero").note


def test_the_moving_mean_shrinks_at_the_ends_and_skips_nan() -> None:
    values = np.array([1.0, 2.0, np.nan, 4.0, 5.0])
    assert moving_mean(values, 3) == pytest.approx([1.5, 1.5, 3.0, 4.5, 4.5])


def test_shares_are_drawn_with_names_that_look_like_markup_or_mathematics() -> None:
    drawing = draw_shares("Solved", ["<b>$x", "id"], {"m": [estimate(0.5, 10), None]})
    assert "&lt;b&gt;$x" in drawing.svg
    assert csv_of(drawing.csv).splitlines()[1].startswith("<b>$x,m,0.5,10,0.23")
