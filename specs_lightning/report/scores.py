"""The results as columns, one cell a model: what both the page and the terminal table are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from specs_lightning.records.answers import MEASURES
from specs_lightning.records.results import KindGain, ModelScores, Results, read_results
from specs_lightning.statistics.intervals import Estimate, estimate, mean_estimate
from specs_lightning.statistics.set_kinds import by_kind, kind_weights
from specs_lightning.system.terminal import plain

NOTHING = "–"
Cells = tuple[Estimate | None, ...]


@dataclass(frozen=True)
class Column:
    """One column of the results table; a model without a value has None.

    `main` is what a run is about: the measure that gains are taken on, the gains and Γ.
    """

    title: str
    detail: str
    cells: Cells
    in_terminal: bool = True
    main: bool = False

    @property
    def n(self) -> int | None:
        """The number of prompts of every cell; None where it differs, or there is none."""
        numbers = {cell.n for cell in self.cells if cell}
        return next(iter(numbers)) or None if len(numbers) == 1 else None

    @property
    def best(self) -> frozenset[int]:
        """The rows with the highest value: none when there is nothing to choose between."""
        values = [cell.value for cell in self.cells if cell]
        if len(values) < 2 or max(values) == min(values):
            return frozenset()
        return frozenset(row for row, cell in enumerate(self.cells) if cell and cell.value == max(values))


def percent(value: float | None) -> str:
    """A share without its sign: `62.0`; a gain may be negative, and rounds to 0.0, never to -0.0."""
    return NOTHING if value is None else f"{round(100 * value, 1) + 0.0:.1f}".replace("-", "\N{MINUS SIGN}")


def with_interval(one: Estimate | None, form: str = "[{} to {}]") -> str:
    """A share with its interval, if it has one."""
    if one is None or one.interval is None:
        return percent(one.value if one else None)
    return f"{percent(one.value)} {form.format(*map(percent, one.interval))}"


def mean_share(model: ModelScores, sets: Sequence[str], measure: str) -> Estimate | None:
    """The mean of one measure over sets, each kind of them weighing alike, as in the gains.

    None unless every set has been measured, so that means stay comparable.
    """
    estimates = []
    for name in sets:
        if (scores := model.sets.get(name)) is None or (share := getattr(scores, measure)) is None:
            return None
        interval = scores.interval(measure)
        estimates.append(Estimate(share, scores.n, interval) if interval else estimate(share, scores.n))
    return mean_estimate(estimates, [*kind_weights(sets).values()])


def title_of(measure: str, where: str) -> str:
    """Of a measure in or out of distribution: `Format kept OOD`."""
    return f"{measure.replace('_', ' ').capitalize()} {where.upper()}"


def results_columns(results: Results) -> list[Column]:
    """The columns of the main table: shares with their intervals, then the gains and the Generalization Factor."""
    columns = []
    for measure in reversed(MEASURES):
        for where, sets in (("id", results.id_sets), ("ood", results.ood_sets)):
            cells = tuple(mean_share(model, sets, measure) for model in results.models)
            of = f"{len(by_kind(sets))} kinds" if len(by_kind(sets)) > 1 else f"{len(sets)} sets"
            detail = f"mean of {of}" if len(sets) > 1 else "".join(sets)
            columns.append(Column(title_of(measure, where), detail, cells, main=measure == results.measure))
    of_kinds = {kind: [one.kinds.get(kind, KindGain()) for one in results.models] for kind in results.kinds}
    beta = f"β = {results.beta:g}"
    return [
        *columns,
        Column("Gain ID", results.gain, _of_the_gains(results.models, "gain_id"), False, main=True),
        Column("Gain OOD", results.gain, _of_the_gains(results.models, "gain_ood"), False, main=True),
        Column("GF Γ", beta, _of_the_gains(results.models, "generalization_factor"), main=True),
        *(Column(f"Γ {kind}", beta, _of_the_gains(of, "generalization_factor")) for kind, of in of_kinds.items()),
        *(Column(f"Gain {kind}", results.gain, _of_the_gains(of, "gain_ood"), False) for kind, of in of_kinds.items()),
    ]


def results_table(run_dir: Path) -> Table:
    """The results of a run for the terminal, in percent, the best of a column in bold. Errors: `read_results`."""
    results = read_results(run_dir)
    if results is None:
        return Table(title="No model has been evaluated yet")
    columns = [column for column in results_columns(results) if column.in_terminal]
    table = Table(
        box=box.SIMPLE_HEAD,
        collapse_padding=True,
        title="Results in percent",
        caption=f"GF over the {results.gain} in {results.measure}, β = {results.beta:g}",
    )
    table.add_column("Model", overflow="fold")
    for column in columns:
        title = column.title.replace(" ", "\n") if results.kinds else column.title  # for many columns to be narrow
        table.add_column(plain(title), justify="right", overflow="fold")
    for row, model in enumerate(results.models):
        table.add_row(plain(model.name), *(_terminal_cell(column, row) for column in columns))
    return table


def _terminal_cell(column: Column, row: int) -> Text:
    cell = column.cells[row]
    return Text(percent(cell.value if cell else None), style="bold" if row in column.best else "")


def _of_the_gains(models: Sequence[ModelScores | KindGain], name: str) -> Cells:
    """A gain or the factor of each model, on the prompts of all sets, or of those of a kind."""
    values = [(getattr(model, name), model.interval(name)) for model in models]
    return tuple(None if value is None else Estimate(value, 0, interval) for value, interval in values)
