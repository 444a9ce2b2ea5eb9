"""The page of a comparison: what experiments share is one row, and figures are those of their answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from helpers.synthetic_run import SCORES, STAGES, answer, write_experiments, write_json, write_jsonl
from rich.console import Console

from specs_lightning.records.comparison import COMPARISON, ComparisonRecord, ComparisonRow
from specs_lightning.records.results import read_results
from specs_lightning.report.comparison import ComparisonError, Folders, comparison_table, write_comparison


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Two experiments of three seeds; read only."""
    return write_experiments(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def written(runs: Folders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("comparison")
    assert write_comparison(folder, runs, {"rl, seed 1": "not <one> pair"}) == folder / "comparison.html"
    return folder


@pytest.fixture(scope="module")
def found(written: Path) -> ComparisonRecord:
    record = COMPARISON.read(written)
    assert record is not None
    return record


def shown(folder: Path) -> str:
    console = Console(width=250)
    with console.capture() as capture:
        console.print(comparison_table(folder))
    return capture.get()


def names(rows: Sequence[ComparisonRow]) -> list[tuple[str, tuple[str, ...]]]:
    return [(row.experiment, row.alike) for row in rows]


def test_every_stage_with_a_model_is_compared_and_one_that_is_shared_is_one_row(found: ComparisonRecord) -> None:
    assert list(found.stages) == list(SCORES) == [name for name in STAGES if name != "distill"]
    assert names(found.stages["base"]) == [("specs", ("sft",))]
    assert names(found.stages["final"]) == [("specs", ()), ("sft", ())]


def test_figures_are_means_over_seeds_of_the_runs_results(found: ComparisonRecord, runs: Folders) -> None:
    row, _ = found.stages["final"]
    results = read_results(runs["specs"][0])
    assert results is not None
    final = next(model for model in results.models if model.name == "final")
    assert row.seeds == (0, 1, 2) and row.figures["solved_id"].n == 3
    assert row.values["solved_id"] == pytest.approx(dict.fromkeys(row.seeds, final.sets["id"].solved))
    outside = [final.sets[name].solved for name in results.ood_sets]
    assert row.figures["solved_ood"].value == pytest.approx(sum(outside) / len(outside))
    assert row.prompts == sum(scores.n for scores in final.sets.values())


def test_each_kind_of_sets_has_its_factor_on_the_page(found: ComparisonRecord, written: Path) -> None:
    row, _ = found.stages["final"]
    assert row.figures["generalization_factor/formats"].value == pytest.approx(0.30909, abs=1e-4)
    page = (written / "comparison.html").read_text()
    assert '<th scope="col">Γ formats</th><th scope="col">Γ tasks</th>' in page


def test_the_first_experiment_is_what_others_are_compared_with(found: ComparisonRecord) -> None:
    first, other = found.stages["final"]
    assert first.against == {}
    assert set(other.against) == {"solved_id", "solved_ood", "generalization_factor"}
    assert other.against["solved_id"].prompts == 50
    assert other.against["generalization_factor"].p_by_prompt is None


def test_prompts_add_up_to_the_difference_of_means_in_which_kinds_of_sets_weigh_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    solved = {"id": (0.5, 0.5), "formats/boxed": (0.5, 0.0), "formats/json": (0.5, 0.25), "looks/dark": (0.0, 0.75)}
    runs: dict[str, dict[int, Path]] = {}
    for i, name in enumerate(("one", "other")):
        run = tmp_path / name
        shares = {of_set: both[i] for of_set, both in solved.items()}
        sets = [{"name": of_set, "in_distribution": of_set == "id"} for of_set in solved]
        scores = {of_set: {"n": 4, "format_kept": s, "correct": s, "solved": s} for of_set, s in shares.items()}
        write_json(
            run / "results.json", {"sets": sets, "models": [{"name": "final", "stage": "final", "sets": scores}]}
        )
        write_json(run / "run.json", {"name": name, "stages": ["final"]})
        write_json(run / "final" / "stage.json", {"status": "finished", "fingerprint": name, "settings": {}})
        rows = [answer(of_set, f"p{n}", float(n < 4 * s)) for of_set, s in shares.items() for n in range(4)]
        write_jsonl(run / "final" / "answers.jsonl", rows)
        runs[name] = {0: run}
    told: list[float] = []
    monkeypatch.setattr("specs_lightning.report.comparison.paired_by_prompt", lambda these: told.append(sum(these)))
    write_comparison(tmp_path / "out", runs, {})
    found = COMPARISON.read(tmp_path / "out")
    assert found is not None
    differences = found.stages["final"][1].against
    inside, outside = (differences[f"solved_{where}"].by_seed.value for where in ("id", "ood"))
    assert (inside, outside) == (0.0, pytest.approx((-0.375 + 0.75) / 2))
    assert told[:2] == pytest.approx([inside, outside])


def test_what_a_stage_and_the_run_up_to_it_cost(found: ComparisonRecord) -> None:
    """60 seconds a stage; of distill, which is not compared, nothing is recorded."""
    base, zero = found.stages["base"][0], found.stages["zero"][0]
    assert (base.cpu_seconds, base.cpu_seconds_of_run) == (60.0, 60.0)
    assert (zero.cpu_seconds, zero.cpu_seconds_of_run) == (60.0, 120.0)
    assert found.stages["final"][0].cpu_seconds_of_run is None


def test_the_page_names_failures_differences_and_shared_rows(written: Path) -> None:
    page = (written / "comparison.html").read_text()
    assert "rl, seed 1" in page and "not &lt;one&gt; pair" in page
    assert "final: model.objective" in page
    assert "least and greatest of the seeds" in page


def test_the_terminals_table_has_a_row_for_each_of_the_pages(written: Path) -> None:
    rows = [line.split()[:2] for line in shown(written).splitlines() if line.split()[:1] in ([s] for s in SCORES)]
    assert rows == [["base", "specs"]] + [[s, e] for s in SCORES if s != "base" for e in ("specs", "sft")]
    assert "specs (+1)" in shown(written)


def test_without_a_comparison_the_table_is_empty(tmp_path: Path) -> None:
    assert "Stage" in shown(tmp_path) and "specs" not in shown(tmp_path)


def test_a_run_that_is_not_finished_is_named(tmp_path: Path) -> None:
    write_json(tmp_path / "run" / "run.json", {"name": "a"})
    with pytest.raises(ComparisonError, match="run has no results yet"):
        write_comparison(tmp_path / "out", {"a": {0: tmp_path / "run"}}, {})


def test_runs_that_were_measured_otherwise_are_named(runs: Folders, tmp_path: Path) -> None:
    results = json.loads((runs["sft"][0] / "results.json").read_text())
    write_json(tmp_path / "run" / "results.json", results | {"beta": 1.0})
    write_json(tmp_path / "run" / "run.json", {"name": "other"})
    with pytest.raises(ComparisonError, match=r"run was measured otherwise .*: beta is 1\.0, not 2\.0"):
        write_comparison(tmp_path / "out", {"specs": {0: runs["specs"][0]}, "other": {0: tmp_path / "run"}}, {})


def test_the_terminal_tells_ranges_of_negative_numbers_in_words(tmp_path: Path) -> None:
    """A dash between two minus signs cannot be read."""
    figures = {"generalization_factor": {"value": -0.12, "n": 3, "interval": [-0.176, -0.104]}}
    row = {"experiment": "dpo", "alike": [], "seeds": [0, 1, 2], "figures": figures}
    (tmp_path / "comparison.json").write_text(json.dumps({"stages": {"final": [row]}}))
    assert "−12.0 (−17.6 to −10.4)" in shown(tmp_path)
