import io
from pathlib import Path

import pytest
from helpers.synthetic_run import write_json, write_run
from rich.console import Console

from specs_lightning.records.results import (
    RESULTS,
    EvaluationSet,
    KindGain,
    ModelScores,
    Results,
    SetScores,
    read_results,
)
from specs_lightning.report import results_table
from specs_lightning.report.scores import mean_share, percent, results_columns
from specs_lightning.statistics.intervals import Estimate, estimate, mean_estimate, wilson


def test_wilson_against_a_hand_worked_case() -> None:
    # 5 of 10: z² = 3.8415, centre 0.5, half = 1.96 / 1.38415 * sqrt(0.025 + 0.0096) = 0.2634
    assert wilson(0.5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    # 0 of 10: from 0 to z² / (10 + z²)
    assert wilson(0.0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(1.0, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)


@pytest.mark.parametrize(("share", "n"), [(0.5, 0), (-0.1, 10), (1.1, 10), (float("nan"), 10)])
def test_wilson_of_no_share_raises(share: float, n: int) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        wilson(share, n)


def test_the_mean_of_one_set_has_its_wilson_interval() -> None:
    mean = mean_estimate([estimate(0.5, 10)])
    assert mean is not None
    assert mean.interval == pytest.approx(wilson(0.5, 10))


def test_the_mean_of_equal_sets_is_narrower_by_the_root_of_their_number() -> None:
    mean = mean_estimate([estimate(0.5, 10)] * 4)
    assert mean is not None
    assert (mean.value, mean.n) == (0.5, 40)
    assert mean.interval == pytest.approx((0.5 - 0.2634 / 2, 0.5 + 0.2634 / 2), abs=1e-4)


def test_a_weighted_mean_of_shares_has_a_weighted_interval() -> None:
    certain = Estimate(0.9, 5, (0.9, 0.9))
    mean = mean_estimate([estimate(0.5, 10), certain], [0.25, 0.75])
    assert mean is not None
    assert (mean.value, mean.n) == (pytest.approx(0.8), 15)
    assert mean.interval == pytest.approx((0.8 - 0.2634 / 4, 0.8 + 0.2634 / 4), abs=1e-4)


def test_the_mean_of_nothing_is_none_and_of_no_prompts_has_no_interval() -> None:
    assert mean_estimate([]) is None
    mean = mean_estimate([estimate(0.5, 10), estimate(0.5, 0)])
    assert mean is not None
    assert mean.interval is None


def test_columns_mark_the_best_and_leave_out_means_over_missing_sets(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {"name": "n"})
    sets = [{"name": name, "in_distribution": name == "id"} for name in ("id", "ood")]
    full = {"n": 10, "format_kept": 0.5, "correct": 0.5, "solved": 0.5}
    models = [{"name": "a", "sets": {"id": full, "ood": full}}, {"name": "b", "sets": {"id": {**full, "correct": 0.8}}}]
    write_json(tmp_path / "results.json", {"sets": sets, "models": models})
    results = read_results(tmp_path)
    assert results is not None
    columns = {column.title: column for column in results_columns(results)}
    assert columns["Correct ID"].best == {1}
    assert columns["Solved ID"].best == frozenset(), "equal"
    assert columns["Solved OOD"].best == frozenset(), "nothing to choose between"
    assert columns["Solved OOD"].cells[1] is None
    assert columns["Format kept OOD"].cells[1] is None


def test_means_weigh_kinds_of_sets_alike_as_the_gains_do() -> None:
    names = ("formats/boxed", "formats/json", "looks/dark")
    sets = {name: SetScores(10, solved=solved) for name, solved in zip(names, (0.0, 0.2, 0.5), strict=True)}
    mean = mean_share(ModelScores("a", sets=sets), names, "solved")
    assert mean is not None and mean.value == pytest.approx((0.1 + 0.5) / 2)


def test_the_table_has_a_column_for_each_kind_and_stays_readable_in_120_columns(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {"name": "n"})
    outside = ("formats/boxed", "formats/json", "looks/dark", "tasks/row")
    kept = SetScores(10, format_kept=0.99, correct=0.99, solved=0.99)
    kinds = {name: KindGain(0.1 * i, 0.11 * i) for i, name in enumerate(("formats", "looks", "tasks"), 1)}
    scores = ModelScores("cold_start", "", dict.fromkeys(("id", *outside), kept), 0.5, 0.2, 0.234, kinds=kinds)
    sets = tuple(EvaluationSet(name, name == "id") for name in ("id", *outside))
    results = Results(sets=sets, models=(ModelScores("base", sets=scores.sets), scores))
    RESULTS.write(tmp_path, results)
    columns = {column.title: column for column in results_columns(results)}
    assert columns["Solved OOD"].detail == "mean of 3 kinds"
    assert [cell.value for cell in columns["Gain looks"].cells if cell] == [0.2]
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(results_table(tmp_path))
    lines = console.export_text().splitlines()
    final = next(line.split() for line in lines if "cold_start" in line)
    assert final == ["cold_start", *["99.0"] * 6, "23.4", "11.0", "22.0", "33.0"]
    head = " ".join(lines[1:6]).split()
    assert {"formats", "looks", "tasks", "Format", "kept", "Solved", "Correct", "OOD"} < {*head}


def test_percent() -> None:
    assert [percent(value) for value in (None, 0.625, -0.05, -0.0001, 1.0)] == ["–", "62.5", "−5.0", "0.0", "100.0"]


def test_the_terminal_table_holds_every_model_and_measure(tmp_path: Path) -> None:
    console = Console(width=200, record=True, file=io.StringIO())
    table = results_table(write_run(tmp_path))
    console.print(table)
    text = console.export_text()
    assert "cold_start" in text and "β = 2" in text
    heads = [" ".join(str(column.header).split()) for column in table.columns]
    assert {"Format kept ID", "Correct ID", "Correct OOD", "Solved OOD", "GF Γ", "Γ formats", "Γ tasks"} < {*heads}
    final = next(line for line in text.splitlines() if "final" in line)
    assert final.split() == ["final", "83.0", "44.0", "84.0", "67.0", "99.0", "56.5", "27.5", "30.9", "23.9"]


def test_a_name_with_brackets_is_no_markup(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {"name": "n"})
    write_json(tmp_path / "results.json", {"sets": [], "models": [{"name": "[red]x"}]})
    assert str(results_table(tmp_path).columns[0]._cells[0]) == "[red]x"


def test_without_results_the_table_says_so(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {"name": "n"})
    table = results_table(tmp_path)
    assert table.row_count == 0
    assert "No model" in str(table.title)


def test_without_a_run_the_table_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="specs run"):
        results_table(tmp_path)
