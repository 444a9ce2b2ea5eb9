"""The page of `specs compare`: ways of training beside each other, each over its seeds, stage by stage."""

from __future__ import annotations

import fnmatch
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from specs_lightning.errors import SpecsError
from specs_lightning.records.answers import FILE as ANSWERS
from specs_lightning.records.answers import MEASURES, read_answers
from specs_lightning.records.comparison import COMPARISON, Against, ComparisonRecord, ComparisonRow
from specs_lightning.records.metrics import read_metrics, series_of
from specs_lightning.records.results import ModelScores, Results, read_results
from specs_lightning.records.run import read_run
from specs_lightning.report.figures import Drawing, draw_curves, draw_shares
from specs_lightning.report.loading import read_stage
from specs_lightning.report.page import flat, write_page
from specs_lightning.report.panels import Curves, Panel
from specs_lightning.report.scores import mean_share, title_of, with_interval
from specs_lightning.settings.nested import NOT_SET, changes
from specs_lightning.statistics.seeds import mean_over_seeds, paired_by_prompt, paired_by_seed
from specs_lightning.statistics.set_kinds import kind_weights
from specs_lightning.system.terminal import plain

GAMMA = "generalization_factor"
TITLES = {f"{one}_{where}": title_of(one, where) for one in reversed(MEASURES) for where in ("id", "ood")}
TITLES[GAMMA] = "GF Γ"
BySeed = Mapping[int, Path]
Folders = Mapping[str, BySeed]
"""The folders of runs, by experiment and seed."""


class ComparisonError(SpecsError, RuntimeError):
    """Runs that cannot be compared, or that failed; the message says which and why."""


@dataclass(frozen=True)
class StageComparison:
    name: str
    rows: tuple[ComparisonRow, ...]
    overview: Drawing | None
    curves: tuple[Drawing, ...]


def write_comparison(folder: Path, runs: Folders, failures: Mapping[str, str]) -> Path:
    """Write `comparison.json` and `comparison.html`, and return the page's path.

    The first experiment is what the others are compared with; `failures` says why runs have no results.
    """
    results = {folder: _results(folder) for of_seed in runs.values() for folder in of_seed.values()}
    settings = _common_settings(results)
    # Those with a model, in the order of the first experiment that has them.
    names = dict.fromkeys(model.name for found in results.values() for model in found.models)
    stages = [_stage(name, runs, settings) for name in names] if settings else []
    folders = {name: {seed: str(path) for seed, path in of_seed.items()} for name, of_seed in runs.items()}
    COMPARISON.write(folder, ComparisonRecord(folders, dict(failures), {stage.name: stage.rows for stage in stages}))
    tested = [*_tested(settings), GAMMA] if settings else []
    kinds = dict.fromkeys(kind for found in results.values() for kind in found.kinds)
    return write_page(
        folder / "comparison.html",
        "comparison",
        stages=stages,
        settings=settings,
        failures=failures,
        runs=runs,
        titles=TITLES | {f"{GAMMA}/{kind}": f"Γ {kind}" for kind in kinds},
        tested=tested,
        differences=_differences(runs),
    )


def comparison_table(folder: Path) -> Table:
    """The last stage's numbers for the terminal: means over seeds with their intervals, in percent."""
    found = COMPARISON.read(folder) or ComparisonRecord()
    table = Table(box=box.SIMPLE_HEAD, caption="Percent: mean over seeds and its 95 % interval")
    for title in ("Stage", "Experiment", "Seeds", *TITLES.values()):
        table.add_column(title, justify="left" if title in ("Stage", "Experiment") else "right", overflow="fold")
    for stage, rows in found.stages.items():
        for row in rows:
            cells = [with_interval(row.figures.get(name), "({} to {})") for name in TITLES]
            more = f" (+{len(row.alike)})" if row.alike else ""
            table.add_row(plain(stage), plain(row.experiment + more), str(len(row.seeds)), *cells)
    return table


def _results(folder: Path) -> Results:
    results = read_results(folder)
    if results is None:
        raise ComparisonError(f"{folder} has no results yet: its run is not finished")
    return results


def _common_settings(results: Mapping[Path, Results]) -> Results | None:
    """What all runs were measured by; those of the first."""
    first = next(iter(results.values()), None)
    for folder, found in results.items():
        for name in ("measure", "beta", "gain", "id_sets", "ood_sets"):
            own, other = getattr(found, name), getattr(first, name)
            if own != other:
                differing = f"{name} is {own}, not {other}"
                raise ComparisonError(f"{folder} was measured otherwise than the first run: {differing}")
    return first


def _stage(name: str, runs: Folders, settings: Results) -> StageComparison:
    """The rows of one stage: experiments that share it, with every seed, are one row."""
    groups: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    for experiment, of_seed in runs.items():
        prints = {seed: read_stage(folder / name).fingerprint for seed, folder in sorted(of_seed.items())}
        marks = tuple((seed, mark) for seed, mark in prints.items() if mark)
        if marks:
            groups[marks].append(experiment)
    rows: list[ComparisonRow] = []
    curves: list[Curves | None] = []
    reference: BySeed = {}
    for experiments in groups.values():
        folders = {seed: folder / name for seed, folder in runs[experiments[0]].items() if _models(folder / name)}
        rows.append(_row(experiments, folders, rows[0] if rows else None, reference, settings))
        reference = reference or folders
        curves.append(_curves(experiments[0], list(folders.values()), settings))
    overview = {TITLES[figure]: [row.figures.get(figure) for row in rows] for figure in (*_tested(settings), GAMMA)}
    drawn = draw_shares(f"After {name}", [row.experiment for row in rows], overview) if len(rows) > 1 else None
    return StageComparison(name, tuple(rows), drawn, tuple(draw_curves(one, name) for one in curves if one))


def _row(
    experiments: list[str], folders: BySeed, first: ComparisonRow | None, reference: BySeed, settings: Results
) -> ComparisonRow:
    """What a stage in these folders gave, beside the first row, whose stage is in those of `reference`."""
    values: dict[str, dict[int, float]] = defaultdict(dict)
    prompts = 0
    for seed, folder in folders.items():
        for model in _models(folder):
            prompts = sum(scores.n for scores in model.sets.values())
            for figure, value in _figures(model, settings).items():
                values[figure][seed] = value
    figures = {name: mean for name, of_seed in values.items() if (mean := mean_over_seeds([*of_seed.values()]))}
    against = {}
    if first is not None:
        for name, sets in {**_tested(settings), GAMMA: ()}.items():
            mine, others = values[name], first.values.get(name, {})
            both = sorted(mine.keys() & others.keys())
            found = paired_by_seed([mine[seed] for seed in both], [others[seed] for seed in both])
            if found is not None:
                pairs = [(folders[seed], reference[seed]) for seed in both]
                differences = _prompt_differences(pairs, sets, settings.measure)
                against[name] = Against(found, paired_by_prompt(differences), len(differences))
    costs = [_cost(folders, whole_run) for whole_run in (False, True)]
    experiment, *alike = experiments
    seeds = tuple(sorted(folders))
    return ComparisonRow(experiment, tuple(alike), seeds, figures, prompts, dict(values), against, *costs)


def _tested(settings: Results) -> dict[str, tuple[str, ...]]:
    """The figures that are tested, with the sets that they are the mean of."""
    return {f"{settings.measure}_id": settings.id_sets, f"{settings.measure}_ood": settings.ood_sets}


def _models(stage: Path) -> list[ModelScores]:
    """The stage's model, if it has one."""
    return [model for model in _results(stage.parent).models if model.name == stage.name]


def _figures(model: ModelScores, settings: Results) -> dict[str, float]:
    found = {
        f"{measure}_{where}": mean_share(model, sets, measure)
        for measure in MEASURES
        for where, sets in (("id", settings.id_sets), ("ood", settings.ood_sets))
    }
    values = {name: estimate.value for name, estimate in found.items() if estimate}
    gains = {name: getattr(model, name) for name in ("gain_id", "gain_ood", GAMMA)}
    gains |= {f"{GAMMA}/{kind}": one.generalization_factor for kind, one in model.kinds.items()}
    return values | {name: value for name, value in gains.items() if value is not None}


def _prompt_differences(stages: Sequence[tuple[Path, Path]], sets: Sequence[str], measure: str) -> list[float]:
    """What each prompt adds to the difference of the mean over sets, over all seeds; one asked in several sets once."""
    by_prompt: dict[str, float] = defaultdict(float)
    weights = kind_weights(sets)
    for stage, reference in stages:
        mine, others = _scores(stage, measure), _scores(reference, measure)
        for name in sets:
            both = mine[name].keys() & others[name].keys()
            for prompt in both:
                difference = mine[name][prompt] - others[name][prompt]
                by_prompt[prompt] += weights[name] * difference / (len(both) * len(stages))
    return list(by_prompt.values())


def _scores(stage: Path, measure: str) -> dict[str, dict[str, float]]:
    """The mean score of each prompt's answers that could be judged, by set."""
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for answer in read_answers(stage / ANSWERS):
        if not math.isnan(value := getattr(answer, measure)):
            found[answer.set, answer.prompt_id].append(value)
    means: dict[str, dict[str, float]] = defaultdict(dict)
    for (name, prompt), values in found.items():
        means[name][prompt] = sum(values) / len(values)
    return means


def _cost(folders: BySeed, whole_run: bool) -> float | None:
    """CPU seconds of the stage, or of the run up to it; mean over seeds. None where a stage was stopped and resumed."""
    totals = []
    for folder in folders.values():
        names = read_run(folder.parent).stages if whole_run else (folder.name,)
        if folder.name not in names:
            return None
        records = [read_stage(folder.with_name(name)) for name in names[: names.index(folder.name) + 1]]
        seconds = [record.cpu_seconds for record in records if record.cpu_seconds is not None and record.attempts == 1]
        if len(seconds) < len(records):
            return None
        totals.append(sum(seconds))
    return sum(totals) / len(totals) if totals else None


def _curves(experiment: str, stages: Sequence[Path], settings: Results) -> Curves | None:
    """ID, OOD and Γ over steps as the paper draws them: the mean over seeds, within the least and the greatest."""
    by_label: dict[str, list[dict[int, float]]] = defaultdict(list)
    for stage in stages:
        metrics = read_metrics(stage)
        end = f"/{settings.measure}"
        sets = {name[len("gf/") : -len(end)]: metrics[name] for name in fnmatch.filter(metrics, f"gf/*{end}")}
        found = {
            "ID": {name: series for name, series in sets.items() if name in settings.id_sets},
            "OOD": {name: series for name, series in sets.items() if name not in settings.id_sets},
            "Γ": {name: series for name, series in metrics.items() if name == f"gf/{GAMMA}"},
        }
        for label, several in found.items():
            if several:
                values = [dict(zip(s.steps, s.values, strict=True)) for s in several.values()]
                by_label[label].append(_mean_by_step(values, [*kind_weights(several).values()]))
    if not by_label:
        return None
    series, bands = {}, {}
    for label, of_seeds in by_label.items():
        mean = _mean_by_step(of_seeds, [1 / len(of_seeds)] * len(of_seeds))
        series[label] = series_of(mean)
        if len(of_seeds) > 1:
            low, high = ({step: pick(one[step] for one in of_seeds) for step in mean} for pick in (min, max))
            bands[label] = (series_of(low), series_of(high))
    panel = Panel(experiment, (), percent=True, limits=(0.0, 1.0))
    return Curves(panel, series, bands, "least and greatest of the seeds")


def _mean_by_step(several: Sequence[Mapping[int, float]], weights: Sequence[float]) -> dict[int, float]:
    """At the steps that all have, by weights with a sum of 1."""
    steps = sorted(set.intersection(*(set(one) for one in several)))
    return {step: sum(w * one[step] for w, one in zip(weights, several, strict=True)) for step in steps}


def _differences(runs: Folders) -> dict[str, list[tuple[str, str]]]:
    """In what the settings of each experiment's stages differ from the first's."""
    settings = {name: _run_settings(next(iter(of_seed.values()))) for name, of_seed in runs.items()}
    first, *_ = settings.values() or [{}]
    return {
        name: [(key, "not there" if new is NOT_SET else new) for key, _, new in changes(first, mine)]
        for name, mine in settings.items()
    }


def _run_settings(folder: Path) -> dict[str, str]:
    """Of a run's stages, as `stage: setting`."""
    shown: dict[str, str] = {}
    for stage in read_run(folder).stages:
        settings = read_stage(folder / stage).settings
        own = {key: settings[key] for key in ("kind", "model", "overrides") if settings.get(key)}
        shown |= {f"{stage}: {key.removeprefix('overrides.')}": value for key, value in flat(own)}
    return shown
