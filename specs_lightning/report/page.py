"""The page: a run, its figures and the template put together into one HTML file that loads nothing.

It holds no script, and its content security policy forbids scripts and requests, because completions are text that a
model wrote: they are escaped, and even a mistake in that would run nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from specs_lightning.records.results import Results
from specs_lightning.report.figures import COLOURS, SMALL, Drawing, draw_curves, draw_shares
from specs_lightning.report.loading import RunFiles, StageFiles, load_run
from specs_lightning.report.panels import overlaid, stage_curves
from specs_lightning.report.scores import NOTHING, mean_share, percent, results_columns
from specs_lightning.report.sentences import gains_sentences, headline, ranking_sentences, show_results
from specs_lightning.settings.nested import flatten
from specs_lightning.system.files import write_atomically
from specs_lightning.system.terminal import say

SET_ASIDE_LISTED = 50
_TAG = re.compile(r"(</?[A-Za-z_]\w*>)")


def report(run_dir: Path) -> None:
    """Write the report of a run again.

    Args:
        run_dir: the folder that `specs run` wrote.
    """
    show_results(run_dir)
    say(f"report: {write_report(run_dir)} (open it in a browser)")


def write_report(run_dir: Path) -> Path:
    """Write `report.html` into the folder of a run, finished or not, and return its path. Errors: `load_run`."""
    file = run_dir / "report.html"
    write_atomically(file, report_page(run_dir))
    return file


def report_page(run_dir: Path) -> str:
    """The report of a run, finished or not. Errors: `load_run`."""
    run = load_run(run_dir)
    results, colour_of = run.results, _colour_of(run)
    curves = overlaid({stage.name: stage.metrics for stage in run.stages}, colour_of)
    return rendered(
        "report",
        run=run,
        columns=results_columns(results) if results else [],
        lead=[headline(results), *ranking_sentences(results.models[1:])] if results else [],
        gains=gains_sentences(results) if results else [],
        overlays=[draw_curves(one, "stages", SMALL) for one in curves],
        legend={name: colour for name, colour in colour_of.items() if any(name in one.series for one in curves)},
        shares=_shares_figure(results, colour_of) if results else None,
        figures={stage.name: figures for stage in run.stages if (figures := _stage_figures(stage))},
        longest=max((stage.record.seconds or 0.0 for stage in run.stages), default=0.0),
        colour_of=colour_of,
    )


def write_page(file: Path, template: str, **shown: Any) -> Path:
    """Write what is shown (`rendered`), and return the page's path."""
    write_atomically(file, rendered(template, **shown))
    return file


def rendered(template: str, **shown: Any) -> str:
    """The page of a template; what is shown in it is escaped."""
    made = Environment(
        loader=PackageLoader("specs_lightning", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(percent=percent, duration=duration, date=date, number=number, segments=segments, flat=flat)
    made.globals.update(mean_share=mean_share, nothing=NOTHING, colours=COLOURS, listed=SET_ASIDE_LISTED)
    return made.get_template(f"{template}.html.j2").render(shown)


def _colour_of(run: RunFiles) -> dict[str, int]:
    """The number of each model's colour, in all figures: stages have theirs from when they begin."""
    stages = [stage.name for stage in run.stages if stage.record.kind != "distill"]
    models = [model.name for model in run.results.models] if run.results else []
    return {name: i for i, name in enumerate(dict.fromkeys(stages + models))}


def _stage_figures(stage: StageFiles) -> list[Drawing]:
    return [draw_curves(curves, stage.name) for curves in stage_curves(stage.metrics)]


def _shares_figure(results: Results, colour_of: dict[str, int]) -> Drawing | None:
    models = {
        model.name: [mean_share(model, [name], "solved") for name in results.set_names] for model in results.models
    }
    measured = any(cell for cells in models.values() for cell in cells)
    return draw_shares("Solved, by set and model", results.set_names, models, colour_of) if measured else None


def duration(seconds: float | None) -> str:
    """Seconds as a person says them: `45 s`, `12 min`, `3 h 05 min`."""
    if seconds is None:
        return NOTHING
    if seconds < 99.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def date(iso: str | None) -> str:
    return datetime.fromisoformat(iso).strftime("%-d %B %Y, %H:%M") if iso else NOTHING


def number(value: Any) -> str:
    """A number of the run as text: whole ones whole, others to four digits; None, and what is not one, said so."""
    if value is None:
        return NOTHING
    if isinstance(value, float):
        return f"{int(value):,}" if value.is_integer() else f"{value:.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return value if isinstance(value, str) else json_text(value)


def segments(text: str) -> Iterable[tuple[bool, str]]:
    """The text cut at its tags, each piece with whether it is one: so the format can be seen at a glance."""
    return ((i % 2 == 1, piece) for i, piece in enumerate(_TAG.split(text)) if piece)


def flat(settings: Any) -> list[tuple[str, str]]:
    """Nested settings as dotted names, as they are given on the command line."""
    return [(name, value if isinstance(value, str) else json_text(value)) for name, value in flatten(settings).items()]


def json_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
