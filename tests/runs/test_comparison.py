"""Runs beside each other: what they share is done once, a stopped comparison goes on, and numbers are those of hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.stand_in_work import Stopped, Work
from scipy import stats

from specs_lightning import __version__
from specs_lightning.data.tables import DataError
from specs_lightning.errors import SpecsError
from specs_lightning.records.answers import Answer, write_answers
from specs_lightning.runs import comparison
from specs_lightning.runs.comparison import ComparisonError
from specs_lightning.runs.comparison import compare as compare_runs
from specs_lightning.settings.functions import function_settings

BASE = {
    "name": "specs",
    "evaluation": {"in_distribution": {"path": "id.jsonl"}, "out_of_distribution": {"ood": {"path": "ood.jsonl"}}},
    "stages": {
        "base": {"kind": "model", "model": "toy:base"},
        "zero": {"kind": "fit", "config": "grpo.yaml"},
        "cold_start": {
            "kind": "fit",
            "config": "cold_start.yaml",
            "overrides": {"model.policy.model": "${zero.model}"},
        },
        "final": {"kind": "fit", "config": "grpo.yaml", "overrides": {"model.policy.model": "${cold_start.model}"}},
    },
}
SFT = {"extends": "specs.yaml", "name": "sft", "stages": {"cold_start": {"overrides": {"model.objective": "SFT"}}}}
RL = {
    "extends": "specs.yaml",
    "name": "rl",
    "stages": {"zero": None, "cold_start": None, "final": {"overrides": {"model.policy.model": "${base.model}"}}},
}
PROMPTS = 20


class SharedWork(Work):
    """Notes what was done for which experiment; a model solves the more prompts the later its stage."""

    def evaluate(
        self, title: str, model: str, data: Mapping[str, Any], overrides: Sequence[str], folder: Path, seed: int
    ) -> float:
        self.done.append(f"evaluate {folder.name.split('-')[0]} {seed}")
        is_sft = "SFT" in str(json.loads((folder / "stage.json").read_text())["settings"])
        solved = {"base": 2, "zero": 6, "cold_start": 10, "final": 14}[folder.name.split("-")[0]] + seed
        solved -= is_sft * (4 if seed == 2 else 3)
        answers = [
            Answer(name, f"p{i}", "", 1, True, 1.0, float(i < solved), float(i < solved))
            for name in data["evaluation"]
            for i in range(PROMPTS)
        ]
        write_answers(answers, folder / "answers.jsonl")
        return 1.0

    def _note(self, what: str, folder: Path, overrides: Any) -> None:
        seed = next(o.removeprefix("--seed_everything=") for o in overrides if o.startswith("--seed_everything="))
        name = f"{what} {folder.name.split('-')[0]} {seed}"
        if self.stop_in == name:
            raise Stopped(name)
        self.done.append(name)
        (folder / "metrics.csv").write_text(
            "step,gf/id/solved,gf/ood/solved,gf/generalization_factor\n0,0.1,0.1,0.0\n10,0.5,0.25,0.2\n"
        )


@pytest.fixture
def shared(work: Work, monkeypatch: pytest.MonkeyPatch) -> SharedWork:
    shared = SharedWork()
    shared.stand_in(monkeypatch)
    for name, settings in {"specs": BASE, "sft": SFT, "rl": RL}.items():
        Path(f"{name}.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    return shared


def compare(*arguments: str) -> dict[str, Any]:
    compare_runs(**function_settings(compare_runs, [*arguments, "--output=out"], listed="runs"))
    return dict(json.loads(Path("out/comparison.json").read_text()))


def test_what_runs_share_is_done_once_a_seed(shared: SharedWork) -> None:
    compare("specs.yaml", "sft.yaml", "rl.yaml", "--seeds=2")
    assert len(shared.done) == len(set(shared.done)) + 2 * (2 + 2 + 2)  # cold_start and final of sft, final of rl
    for seed in (0, 1):
        assert shared.done.count(f"evaluate base {seed}") == 1
        assert shared.done.count(f"fit zero {seed}") == 1
        assert shared.done.count(f"fit final {seed}") == 3
    assert Path("out/rl/seed-1/final/model").is_dir()
    assert Path("out/sft/seed-0/zero").resolve() == Path("out/specs/seed-0/zero").resolve()


def test_of_seeds_beside_each_other_each_line_says_of_which_it_is(
    shared: SharedWork, capsys: pytest.CaptureFixture[str]
) -> None:
    compare("specs.yaml", "--seeds=2", "--at_once=2")
    told = capsys.readouterr().out
    assert all(f"specs, seed {seed} [2/4] zero: done in" in told for seed in (0, 1))


def test_nothing_is_done_again_and_what_is_added_is_done(shared: SharedWork) -> None:
    compare("specs.yaml", "--seeds=1", "--until=cold_start")
    assert not any("final" in name for name in shared.done)
    before = len(shared.done)
    found = compare("specs.yaml", "rl.yaml", "--seeds=1", "--until=cold_start")
    assert len(shared.done) == before and list(found["runs"]) == ["specs"]
    compare("specs.yaml", "--seeds=[0, 1]")
    assert [name for name in shared.done[before:] if name.endswith("0")] == ["fit final 0", "evaluate final 0"]


def test_a_stopped_comparison_goes_on(shared: SharedWork) -> None:
    shared.stop_in = "fit cold_start 1"
    with pytest.raises(Stopped):
        compare("specs.yaml", "sft.yaml", "--seeds=2")
    assert list(json.loads(Path("out/comparison.json").read_text())["runs"]["sft"]) == ["0"]
    before, shared.stop_in = len(shared.done), None
    compare("specs.yaml", "sft.yaml", "--seeds=2")
    assert not any(name.endswith("0") or "zero" in name for name in shared.done[before:])
    record = json.loads(Path("out/specs/seed-1/cold_start/stage.json").read_text())
    assert (record["attempts"], record["status"]) == (2, "finished")


def test_numbers_are_means_over_seeds_and_paired_by_seed_and_by_prompt(shared: SharedWork) -> None:
    rows = {
        name: {row["experiment"]: row for row in rows}
        for name, rows in compare("specs.yaml", "sft.yaml", "--seeds=3")["stages"].items()
    }
    assert rows["zero"]["specs"]["alike"] == ["sft"] and "sft" not in rows["zero"]
    specs, sft = rows["cold_start"]["specs"], rows["cold_start"]["sft"]
    assert specs["values"]["solved_id"] == {"0": 0.5, "1": 0.55, "2": 0.6}
    assert specs["figures"]["solved_ood"]["value"] == pytest.approx(0.55)
    assert specs["figures"]["solved_ood"]["n"] == 3
    against = sft["against"]["solved_id"]
    assert against["by_seed"]["value"] == pytest.approx(-(3 + 3 + 4) / 3 / PROMPTS)
    expected = stats.ttest_rel([7, 8, 8], [10, 11, 12]).pvalue
    assert against["by_seed"]["p"] == pytest.approx(expected)
    assert against["prompts"] == PROMPTS and 0 < against["p_by_prompt"] < 0.2
    assert sft["against"]["generalization_factor"]["p_by_prompt"] is None
    assert specs["against"] == {} and specs["cpu_seconds"] >= 0
    page = Path("out/comparison.html").read_text()
    assert "cold_start: model.objective" in page and "least and greatest of the seeds" in page


def test_finished_runs_are_compared_by_their_names(shared: SharedWork) -> None:
    compare("specs.yaml", "sft.yaml", "--seeds=2")
    folders = [f"out/{name}/seed-{seed}" for name in ("sft", "specs") for seed in (0, 1)]
    before = len(shared.done)
    found = compare(*folders, "--output=other")
    assert len(shared.done) == before
    assert found["runs"] == {"sft": {"0": folders[0], "1": folders[1]}, "specs": {"0": folders[2], "1": folders[3]}}


def test_a_run_that_fails_is_told_and_keeps_no_other_from_being_done(
    shared: SharedWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FailsAtSFT(SharedWork):
        def fit(self, title: str, config: str, overrides: Sequence[str], folder: Path) -> float:
            if "--model.objective=SFT" in overrides:
                raise DataError("not <one> pair")
            return super().fit(title, config, overrides, folder)

    shared = FailsAtSFT()
    shared.stand_in(monkeypatch)
    with pytest.raises(ComparisonError, match=r"sft, seed 0: not <one> pair"):
        compare("specs.yaml", "sft.yaml", "rl.yaml", "--seeds=1")
    assert "fit final 0" in shared.done and shared.done.count("evaluate final 0") == 2
    assert "not &lt;one&gt; pair" in Path("out/comparison.html").read_text()


@pytest.mark.parametrize(
    ("runs", "problem"),
    [
        (["specs.yaml", "specs.yaml"], "another run of the name specs"),
        (["slash.yaml"], "the name 'a/../../b' cannot be that of a folder"),
        (["."], r"run\.json is missing, so \. is not the folder of a run"),
    ],
)
@pytest.mark.bad_input("run folders")
def test_runs_that_cannot_be_told_apart_or_are_none_are_refused(
    shared: SharedWork, runs: list[str], problem: str
) -> None:
    Path("slash.yaml").write_text(yaml.safe_dump({"extends": "specs.yaml", "name": "a/../../b"}))
    with pytest.raises(SpecsError, match=problem):
        compare(*runs)
    assert not shared.done


def test_seeds_of_different_versions_are_not_mixed(shared: SharedWork) -> None:
    compare("specs.yaml", "--seeds=1", "--until=zero")
    file = Path("out/specs/seed-0/zero/stage.json")
    record = json.loads(file.read_text())
    file.write_text(json.dumps({**record, "version": "0.0.9"}))
    with pytest.raises(
        ComparisonError, match=rf"specs: .* different versions .*, {__version__} \(seed 0\) and 0\.0\.9"
    ):
        compare("specs.yaml", "--seeds=2", "--until=zero")
    del record["version"]  # as earlier versions wrote it
    file.write_text(json.dumps(record))
    assert compare("specs.yaml", "--seeds=2", "--until=zero")["runs"]


def test_runs_that_were_measured_otherwise_are_refused(shared: SharedWork) -> None:
    other = {"extends": "specs.yaml", "name": "other", "evaluation": {"measure": "correct"}}
    Path("other.yaml").write_text(yaml.safe_dump(other))
    with pytest.raises(ComparisonError, match="other would be measured otherwise than specs"):
        compare("specs.yaml", "other.yaml", "--seeds=1")
    assert not shared.done
    compare("specs.yaml", "--seeds=1")
    compare_runs(**function_settings(compare_runs, ["other.yaml", "--seeds=1", "--output=elsewhere"], listed="runs"))
    with pytest.raises(ComparisonError, match=r"measured otherwise .*: measure is correct, not solved"):
        compare("out/specs/seed-0", "elsewhere/other/seed-0")


def test_configurations_that_come_with_the_package_are_found_by_their_short_names() -> None:
    (found,) = comparison._experiments(["toy/smoke.yaml"], None).values()
    assert found.name == "smoke" and found.settings is not None
