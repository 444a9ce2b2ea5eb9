"""The figures, as SVG to be put into the page: transparent, and coloured by the page's own light or dark style.

Matplotlib draws them in stand-in colours, which are then replaced by `currentColor` and CSS variables. Legends are left
to the page, where they wrap on a phone. A `Figure` without pyplot needs no display and no backend. Matplotlib is
imported where it is needed: it takes longer than all else of a command that only tells its settings.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from specs_lightning.records.csv_text import csv_text
from specs_lightning.records.metrics import Series
from specs_lightning.report.panels import Curves
from specs_lightning.statistics.intervals import Estimate

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = 8
SMOOTHED_FROM = 60
POINTS = 600
_INK, _GRID = "#0d0e0f", "#0d0e1f"
_SERIES = [f"#a0b0c{i}" for i in range(COLOURS)]
WIDE, SMALL = (4.4, 2.6), (2.75, 1.9)
"""Sizes in inches, of a figure of one stage and of one among several in a row."""
ROUND = [1, 2, 5, 10]
"""Between ticks, times a power of ten."""
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a `$` in the name of a set is a dollar sign
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "text.color": _INK,
    "xtick.color": _GRID,
    "ytick.color": _GRID,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
}


@dataclass(frozen=True)
class Drawing:
    """A figure for the page. `legend` holds the number of each label's colour; `csv` is its data as a data URI."""

    title: str
    svg: Markup
    legend: Mapping[str, int]
    note: str
    csv: str
    minor: bool = False


@lru_cache(maxsize=512)
def draw_curves(curves: Curves, stage: str, size: tuple[float, float] = WIDE) -> Drawing:
    """The series of one panel over steps; long ones as their moving mean over the faint raw values.

    Drawings are kept: of a run that is watched, most are as they were.
    """
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    panel = curves.panel
    colours = curves.colours or {label: i for i, label in enumerate(curves.series)}
    with _drawing(size, f"{stage}: {panel.title}") as (figure, axes):
        for label, series in curves.series.items():
            colour = _SERIES[colours[label] % COLOURS]
            if label in curves.intervals:
                low, high = curves.intervals[label]
                axes.fill_between(low.steps, low.values, high.values, color=colour, alpha=0.18, linewidth=0)
            _draw_series(axes, series, colour)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(6 if size == WIDE else 4, integer=True, steps=ROUND))
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=ROUND))
        if panel.limits:
            axes.set_ylim(*panel.limits)
        if panel.percent:
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        svg = _svg(figure)
    legend = {label: colours[label] for label in curves.series} if len(curves.series) > 1 else {}
    note = _note(list(curves.series.values()), curves.bands if curves.intervals else "")
    return Drawing(panel.title, svg, legend, note, _curves_csv(curves), panel.minor)


def draw_shares(
    title: str,
    rows: Sequence[str],
    models: dict[str, list[Estimate | None]],
    colours: Mapping[str, int] | None = None,
) -> Drawing:
    """One row a set, one point a model, with its 95 % interval; in the models' order if no `colours` are given."""
    from matplotlib.ticker import PercentFormatter

    numbers = colours or {name: i for i, name in enumerate(models)}
    with _drawing((5, 0.6 + len(rows) * (0.2 + 0.12 * len(models))), title) as (figure, axes):
        for i, (name, cells) in enumerate(models.items()):
            colour = _SERIES[numbers[name] % COLOURS]
            offset = 0.7 * ((i + 0.5) / len(models) - 0.5)
            for row, cell in enumerate(cells):
                if cell:
                    whisker = cell.interval or (cell.value, cell.value)
                    axes.plot(whisker, [row + offset] * 2, color=colour)
                    axes.plot([cell.value], [row + offset], "o", color=colour, markersize=4)
        axes.set_yticks(range(len(rows)), rows)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(-0.01, 1.01)
        axes.grid(visible=False, axis="y")
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        svg = _svg(figure)
    with_intervals = any(cell and cell.interval for cells in models.values() for cell in cells)
    note = "Whiskers: 95 % intervals." if with_intervals else ""
    return Drawing(title, svg, {name: numbers[name] for name in models}, note, _shares_csv(rows, models))


def csv_uri(rows: Sequence[Sequence[str]]) -> str:
    """Rows as a CSV file in a data URI."""
    return "data:text/csv;charset=utf-8;base64," + base64.b64encode(csv_text(rows).encode()).decode()


def moving_mean(values: np.ndarray, window: int) -> np.ndarray:
    """The mean over a centred window that shrinks at the ends; values that are NaN count for nothing."""
    import numpy as np

    kernel = np.ones(window)
    counts = np.convolve(~np.isnan(values), kernel, mode="same")
    sums = np.convolve(np.nan_to_num(values), kernel, mode="same")
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


@contextmanager
def _drawing(size: tuple[float, float], salt: str) -> Iterator[tuple[Figure, Axes]]:
    """An empty figure of this size in inches; the ids in it are made of `salt`."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": salt}):
        figure = Figure(figsize=size, layout="constrained")
        yield figure, figure.subplots()


def _draw_series(axes: Axes, series: Series, colour: str) -> None:
    import numpy as np

    steps, values = np.asarray(series.steps, dtype=float), np.asarray(series.values, dtype=float)
    if len(values) < SMOOTHED_FROM:
        marker = "o" if len(values) <= 30 else ""
        axes.plot(steps, values, color=colour, marker=marker, markersize=3, linewidth=1.5)
        return
    mean = moving_mean(values, _window(len(values)))
    # Beyond some hundred points an SVG grows and shows nothing more; the CSV beside it holds them all.
    thinned = slice(None, None, -(-len(values) // POINTS))
    axes.plot(steps[thinned], values[thinned], color=colour, linewidth=0.7, alpha=0.3)
    axes.plot(steps[thinned], mean[thinned], color=colour, linewidth=1.6)


def _window(length: int) -> int:
    return length // 20 * 2 + 1


def _note(series: Sequence[Series], bands: str) -> str:
    notes = [f"Bands: {bands}."] if bands else []
    longest = max(len(one.values) for one in series)
    if longest >= SMOOTHED_FROM:
        notes.append(f"Bold: mean over {_window(longest)} logged values.")
    if lost := sum(one.not_finite for one in series):
        notes.append(f"{lost} values are not finite.")
    return " ".join(notes)


def _curves_csv(curves: Curves) -> str:
    series = dict(curves.series)
    for label, (low, high) in curves.intervals.items():
        series |= {f"{label} low": low, f"{label} high": high}
    by_step = [dict(zip(one.steps, one.values, strict=True)) for one in series.values()]
    steps = sorted(set().union(*by_step))
    rows = [[str(step), *(str(values.get(step, "")) for values in by_step)] for step in steps]
    return csv_uri([["step", *series], *rows])


def _shares_csv(rows: Sequence[str], models: dict[str, list[Estimate | None]]) -> str:
    table = [["set", "model", "share", "n", "low", "high"]]
    for model, cells in models.items():
        for name, cell in zip(rows, cells, strict=True):
            if cell:
                low, high = cell.interval or ("", "")
                table.append([name, model, str(cell.value), str(cell.n), str(low), str(high)])
    return csv_uri(table)


def _svg(figure: Figure) -> Markup:
    """The figure as an `<svg>` element: no prologue, no metadata, no address of anything, the page's colours."""
    file = io.StringIO()
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(file, format="svg", transparent=True, metadata=no_metadata)
    # Ids of groups repeat from figure to figure, which HTML forbids; those that are referred to are salted hashes.
    head, _, body = re.sub(r'<g id="[^"]*"', "<g", file.getvalue().partition("<svg")[2]).partition(">")
    svg = "<svg" + re.sub(r' (?:xmlns(?::\w+)?|version|width|height)="[^"]*"', "", head) + ">" + body
    for stand_in, colour in [(_INK, "currentColor"), (_GRID, "var(--line)")]:
        svg = svg.replace(stand_in, colour)
    for i, stand_in in enumerate(_SERIES):
        svg = svg.replace(stand_in, f"var(--series-{i})")
    # Safe to mark: matplotlib escapes text, and nothing else in it comes from the run.
    return Markup(svg)
