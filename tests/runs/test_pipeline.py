"""A run's stages: in order, once each, continued after a stop, and never mixed with other settings."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.fake_trackers import stand_in
from helpers.stand_in_work import Stopped, Work

from specs_lightning.data.sources import PromptSource
from specs_lightning.errors import SettingsError
from specs_lightning.judge import JudgeSettings
from specs_lightning.rollout import EngineError, SamplingSettings
from specs_lightning.runs import pipeline
from specs_lightning.runs.jobs import run_jobs
from specs_lightning.runs.measurement import EvaluationSettings
from specs_lightning.runs.pipeline import run, stages_of, what_is_next
from specs_lightning.runs.planned_stages import PipelineError, Stage, plan_stages
from specs_lightning.settings import trackers
from specs_lightning.system.digests import fingerprint

EVALUATION = EvaluationSettings(PromptSource("id.jsonl"), {"ood": PromptSource("ood.jsonl")})


def stages(**changes: Any) -> dict[str, Stage]:
    planned: dict[str, dict[str, Any]] = {
        "base": {"kind": "model", "model": "toy:base"},
        "zero": {"kind": "fit", "config": "grpo.yaml", "overrides": {"data.rounds": 3}},
        "distill": {
            "kind": "distill",
            "config": "distill.yaml",
            "overrides": {"zero": "${zero.model}", "base": "${base.model}", "pairs": {"verify": True}},
        },
        "cold_start": {
            "kind": "fit",
            "config": "cold_start.yaml",
            "overrides": {"data.train": "${distill.pairs}", "trainer.callbacks": [{"class_path": "a.B"}]},
        },
        "final": {"kind": "fit", "config": "grpo.yaml", "overrides": {"model.policy.model": "${cold_start.model}"}},
    }
    for name, settings in changes.items():
        planned[name] |= settings
    return {name: Stage(**settings) for name, settings in planned.items()}  # type: ignore[arg-type]


def run_in(store: Path | None) -> None:
    with stages_of(stages(), EVALUATION, "specs", Path("r"), 0, store=store) as (jobs, needs):
        run_jobs(jobs, needs)


EVERYTHING = [
    "evaluate base",
    "fit zero",
    "evaluate zero",
    "distill distill",
    "fit cold_start",
    "evaluate cold_start",
    "fit final",
    "evaluate final",
]


class TestOrder:
    def test_stages_are_done_in_order_and_hand_on_what_they_made(self, work: Work) -> None:
        run(stages(), EVALUATION, run_dir="r", seed=3)
        assert work.done == EVERYTHING
        assert work.overrides["fit zero"] == ["--data.rounds=3", "--seed_everything=3", "--data.seed=3"]
        assert work.overrides["distill distill"] == [
            "--zero=r/zero/model",
            "--base=toy:base",
            '--pairs={"verify": true}',
            "--seed=3",
        ]
        assert work.overrides["fit cold_start"][:2] == [
            "--data.train=r/distill/pairs.parquet",
            '--trainer.callbacks=[{"class_path": "a.B"}]',
        ]
        assert work.overrides["evaluate final"] == ["r/final/model", ""]  # the default
        record = json.loads(Path("r/final/stage.json").read_text())
        assert (record["status"], record["kind"], record["model"]) == ("finished", "fit", "r/final/model")

    @pytest.mark.parametrize("jump", [-3600, 3600])
    def test_its_seconds_are_those_that_passed_whatever_the_clock_is_set_to(
        self, work: Work, jump: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = count(10**9, jump)
        monkeypatch.setattr(time, "time", lambda: next(clock))
        run(stages(), EVALUATION, run_dir="r")
        records = [json.loads(file.read_text()) for file in [Path("r/run.json"), *Path("r").glob("*/stage.json")]]
        assert len(records) == 6 and all(0 <= record["seconds"] < 60 for record in records)

    @pytest.mark.parametrize(
        "engine", ["vllm", {"class_path": "specs_lightning.rollout.VLLMEngine", "init_args": {"sleep_level": 0}}]
    )
    def test_one_engine_for_all_of_them(self, work: Work, engine: Any) -> None:
        run(stages(), EVALUATION, run_dir="r", engine=engine)
        chosen = {"class_path": "specs_lightning.rollout.VLLMEngine"} if engine == "vllm" else engine
        for stage, prefix in (("fit zero", "--data."), ("distill distill", "--"), ("fit final", "--data.")):
            assert f"{prefix}engine={json.dumps(chosen)}" in work.overrides[stage]
        assert work.overrides["evaluate base"][1] == "VLLMEngine"

    def test_one_set_of_template_arguments_for_all_of_them(self, work: Work) -> None:
        run(stages(), EVALUATION, run_dir="r", chat_template_kwargs={"enable_thinking": False})
        for stage, name in (
            ("fit zero", "model.policy.chat_template_kwargs"),
            ("distill distill", "chat_template_kwargs"),
        ):
            assert f'--{name}={{"enable_thinking": false}}' in work.overrides[stage]

    def test_trackers_follow_every_training_and_are_no_change_of_a_run(
        self, work: Work, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stand_in(monkeypatch)
        run(stages(), EVALUATION, run_dir="r", until="zero")
        run(stages(), EVALUATION, run_dir="r", logger=["csv", "wandb"])
        tracked = ['--logger=["wandb"]', "--run_dir=r"]
        told = {name: given[-2:] for name, given in work.overrides.items() if name.startswith("fit")}
        assert told.pop("fit zero") != tracked, "it was finished before"
        assert told == {"fit cold_start": tracked, "fit final": tracked}

    def test_a_tracker_that_is_not_installed_is_refused_before_anything_is_done(
        self, work: Work, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(trackers, "find_spec", lambda name: None)
        with pytest.raises(SettingsError, match="pip install mlflow"):
            run(stages(), EVALUATION, run_dir="r", logger="mlflow")
        assert work.done == [] and not Path("r").exists()

    @pytest.mark.parametrize(
        "engine", ["vlm", {"class_path": "specs_lightning.rollout.HFEngine", "init_args": {"a": 1}}]
    )
    def test_an_engine_that_is_none_is_refused_before_anything_is_done(self, work: Work, engine: Any) -> None:
        with pytest.raises(EngineError, match=r"no rollout engine .* short names are hf, vllm"):
            run(stages(), EVALUATION, run_dir="r", engine=engine)
        assert not work.done

    def test_until_a_stage_and_then_the_rest(self, work: Work) -> None:
        run(stages(), EVALUATION, run_dir="r", until="zero")
        assert work.done == EVERYTHING[:3]
        assert json.loads(Path("r/run.json").read_text())["stages"] == ["base", "zero"]
        run(stages(), EVALUATION, run_dir="r")
        assert work.done == EVERYTHING
        with pytest.raises(PipelineError, match="no stage last to stop after; there are: base, zero"):
            run(stages(), EVALUATION, run_dir="r", until="last")

    def test_a_stage_that_is_not_evaluated(self, work: Work) -> None:
        run(stages(zero={"evaluate": False}), EVALUATION, run_dir="r")
        assert work.done == [name for name in EVERYTHING if name != "evaluate zero"]

    def test_results_are_gains_over_the_first_model(self, work: Work) -> None:
        run(stages(), EVALUATION, run_dir="r")
        results = json.loads(Path("r/results.json").read_text())
        assert [model["name"] for model in results["models"]] == ["base", "zero", "cold_start", "final"]
        assert [model["gain_id"] for model in results["models"]] == [0, 0.5, 0.5, 1.0]
        assert [model["generalization_factor"] for model in results["models"]] == [None, 0.5, 0.5, 1.0]

    def test_a_base_that_solves_nothing_does_not_end_the_run_where_gains_are_relative(self, work: Work) -> None:
        run(stages(), replace(EVALUATION, gain="relative"), run_dir="r")
        assert json.loads(Path("r/run.json").read_text())["finished"]

    def test_results_of_what_is_finished_are_there_before_its_end(self, work: Work) -> None:
        work.stop_in = "fit cold_start"
        with pytest.raises(Stopped):
            run(stages(), EVALUATION, run_dir="r")
        results = json.loads(Path("r/results.json").read_text())
        assert [(one["name"], one["gain_id"]) for one in results["models"]] == [("base", 0), ("zero", 0.5)]

    @pytest.mark.parametrize("name", ["", "..", "a/b", "/etc", "a\0", "a" * 201, "r\udcff"])
    def test_a_name_that_would_lead_out_of_the_runs_folder_is_refused(self, work: Work, name: str) -> None:
        with pytest.raises(SettingsError, match="cannot be that of a folder: give one without slashes"):
            run({name: Stage("model", model="toy:base")}, EVALUATION, run_dir="r")
        with pytest.raises(SettingsError, match="cannot be that of a folder: give one without slashes"):
            run(stages(), EVALUATION, name=name)
        assert work.done == [] and not Path("r").exists()

    @pytest.mark.parametrize("name", ["r[lr=0.1]", "[red]r", "it's a run", "=r"])
    def test_a_run_of_any_other_name_says_a_path_that_is_there(
        self, work: Work, name: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        work.solved[name] = work.solved["base"]
        base = {name: Stage("model", model="toy:base")}
        assert run(base, EVALUATION, name=name) == Path(f"runs/{name}/report.html")
        said = capsys.readouterr().out
        assert f"report: runs/{name}/report.html (open it in a browser)\n" in said and f"[1/1] {name}: done in" in said
        assert Path(f"runs/{name}/{name}/stage.json").is_file()


class TestAgain:
    def test_finished_stages_are_not_done_again(self, work: Work) -> None:
        run(stages(), EVALUATION, run_dir="r")
        run(stages(), EVALUATION, run_dir="r")
        assert work.done == EVERYTHING

    @pytest.mark.parametrize("stop_in", ["fit zero", "evaluate zero", "distill distill", "evaluate final"])
    def test_a_stopped_run_goes_on_with_the_stage_it_was_in(self, work: Work, stop_in: str) -> None:
        work.stop_in = stop_in
        with pytest.raises(Stopped):
            run(stages(), EVALUATION, run_dir="r")
        before, work.stop_in = list(work.done), None
        run(stages(), EVALUATION, run_dir="r")
        assert before + work.done[len(before) :] == EVERYTHING  # what was trained is not trained again

    def test_it_was_started_when_it_was_first_and_finished_when_there_was_last_something_to_do(
        self, work: Work, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        times = iter(f"2026-03-02T0{hour}:00:00+00:00" for hour in range(9))
        monkeypatch.setattr(pipeline, "_now", lambda: next(times))
        work.stop_in = "fit zero"
        with pytest.raises(Stopped):
            run(stages(), EVALUATION, run_dir="r")
        work.stop_in = None
        run(stages(), EVALUATION, run_dir="r")
        run(stages(), EVALUATION, run_dir="r")
        record = json.loads(Path("r/run.json").read_text())
        assert (record["started"][11:13], record["finished"][11:13]) == ("00", "01")

    def test_another_place_of_the_same_run_makes_no_difference(self, work: Work, tmp_path: Path) -> None:
        run(stages(), EVALUATION, run_dir="r")
        Path("r").rename("moved")
        run(stages(), EVALUATION, run_dir=str(tmp_path / "moved"))
        assert work.done == EVERYTHING


class TestChanges:
    @pytest.mark.parametrize(
        ("changes", "stage", "difference"),
        [
            ({"zero": {"overrides": {"data.rounds": 4}}}, "zero", r"overrides\.data\.rounds: 3 -> 4"),
            ({"zero": {"overrides": {}}}, "zero", r"overrides\.data\.rounds: 3 -> \(not set\)"),
            ({"base": {"model": "other"}}, "base", "model: toy:base -> other"),
        ],
    )
    def test_changed_settings_are_refused_and_named(
        self, work: Work, changes: dict[str, Any], stage: str, difference: str
    ) -> None:
        run(stages(), EVALUATION, run_dir="r")
        with pytest.raises(PipelineError, match=f"stage {stage} was finished with other settings:\n.*{difference}"):
            run(stages(**changes), EVALUATION, run_dir="r")
        assert work.done == EVERYTHING

    def test_a_changed_file_too(self, work: Work) -> None:
        run(stages(), EVALUATION, run_dir="r")
        Path("cold_start.yaml").write_text(yaml.safe_dump({"setting": 1, "nested": {"rate": 0.25}}))
        with pytest.raises(PipelineError, match=r"stage cold_start .*\n  file\.nested\.rate: 0\.5 -> 0\.25\n"):
            run(stages(), EVALUATION, run_dir="r")

    def test_and_another_engine(self, work: Work) -> None:
        run(stages(), EVALUATION, run_dir="r")
        with pytest.raises(PipelineError, match=r"engine.class_path: \(not set\) -> .*VLLMEngine"):
            run(stages(), EVALUATION, run_dir="r", engine="vllm")

    def test_and_another_seed(self, work: Work) -> None:
        run(stages(), EVALUATION, run_dir="r")
        with pytest.raises(PipelineError, match="seed: 0 -> 1"):
            run(stages(), EVALUATION, run_dir="r", seed=1)

    @pytest.mark.parametrize(
        "other",
        [
            replace(EVALUATION, in_distribution=PromptSource("id.jsonl", limit=5)),
            replace(
                EVALUATION, out_of_distribution={"ood": PromptSource("ood.jsonl"), "more": PromptSource("b.jsonl")}
            ),
            replace(EVALUATION, sampling=SamplingSettings(completions_per_prompt=4)),
            replace(EVALUATION, judge=JudgeSettings("judge", base_url="http://localhost:1/v1")),
        ],
        ids=["limit", "another set", "sampling", "judge"],
    )
    def test_where_only_the_evaluation_is_another_models_are_evaluated_again_and_nothing_trained(
        self, work: Work, other: EvaluationSettings
    ) -> None:
        run(stages(), EVALUATION, run_dir="r")
        evaluations = [name for name in EVERYTHING if name.startswith("evaluate")]
        work.stop_in = "evaluate cold_start"
        with pytest.raises(Stopped):
            run(stages(), other, run_dir="r")
        work.stop_in = None
        run(stages(), other, run_dir="r")
        assert work.done == EVERYTHING + evaluations
        run(stages(), other, run_dir="r")
        assert work.done == EVERYTHING + evaluations
        sets = [each["name"] for each in json.loads(Path("r/results.json").read_text())["sets"]]
        assert sets == list(other.sets)

    def test_a_model_that_is_to_be_evaluated_after_all_or_not_any_more(self, work: Work) -> None:
        run(stages(zero={"evaluate": False}), EVALUATION, run_dir="r")
        before = len(work.done)
        run(stages(), EVALUATION, run_dir="r")
        assert work.done[before:] == ["evaluate zero"]
        run(stages(zero={"evaluate": False}), EVALUATION, run_dir="r")
        assert work.done[before:] == ["evaluate zero"]
        models = [model["name"] for model in json.loads(Path("r/results.json").read_text())["models"]]
        assert models == ["base", "cold_start", "final"]

    @pytest.mark.parametrize("in_store", [False, True])
    def test_what_a_version_has_made_that_did_not_keep_the_evaluation_apart_is_not_made_again(
        self, work: Work, in_store: bool
    ) -> None:
        store = Path("store") if in_store else None
        plan = plan_stages(stages(), EVALUATION, Path("r"), 0, None, store)
        run_in(store)
        for planned in plan:
            record = json.loads((planned.folder / "stage.json").read_text())
            del record["evaluation"]
            record |= {"settings": planned.as_before, "fingerprint": fingerprint(planned.as_before)}
            (planned.folder / "stage.json").write_text(json.dumps(record))
            if store:
                planned.folder.rename(store / f"{planned.name}-{record['fingerprint']}")
        done = list(work.done)
        run_in(store)
        assert work.done == done
        if not store:
            with pytest.raises(PipelineError, match=r"stage zero .*\n  overrides\.data\.rounds: 3 -> 4\ngive"):
                run(stages(zero={"overrides": {"data.rounds": 4}}), EVALUATION, run_dir="r")

    def test_another_measure_of_the_same_answers_is_no_change(self, work: Work) -> None:
        run(stages(), EVALUATION, run_dir="r")
        run(stages(), replace(EVALUATION, beta=1.0), run_dir="r")
        assert work.done == EVERYTHING
        assert json.loads(Path("r/results.json").read_text())["beta"] == 1.0

    def test_a_comment_in_a_file_is_no_change(self, work: Work) -> None:
        run(stages(), EVALUATION, run_dir="r")
        Path("grpo.yaml").write_text("# why\n" + Path("grpo.yaml").read_text())
        run(stages(), EVALUATION, run_dir="r")
        assert work.done == EVERYTHING


class TestRedo:
    def test_a_stage_and_what_depends_on_it_are_done_again_and_the_old_kept(self, work: Work) -> None:
        run(stages(), EVALUATION, run_dir="r")
        Path("r/distill/note").write_text("first")
        changed = stages(distill={"overrides": {"zero": "${zero.model}", "base": "${base.model}"}})
        run(changed, EVALUATION, run_dir="r", redo=["distill"])
        assert work.done[len(EVERYTHING) :] == EVERYTHING[3:]
        assert Path("r/distill.1/note").read_text() == "first"
        assert sorted(p.name for p in Path("r").iterdir() if p.name.endswith(".1")) == [
            "cold_start.1",
            "distill.1",
            "final.1",
        ]
        run(changed, EVALUATION, run_dir="r", redo=["final"])
        assert Path("r/final.2/model").is_dir()

    def test_an_unknown_stage_is_named(self, work: Work) -> None:
        with pytest.raises(PipelineError, match="redo names unknown stages: nothing"):
            run(stages(), EVALUATION, run_dir="r", redo=["nothing"])

    def test_nothing_is_moved_where_another_stage_is_refused(self, work: Work) -> None:
        run(stages(), EVALUATION, run_dir="r")
        with pytest.raises(PipelineError, match="stage base was finished with other settings"):
            run(stages(base={"model": "other"}), EVALUATION, run_dir="r", redo=["zero"])
        with pytest.raises(PipelineError, match="stage extra was finished with other settings"):
            planned = {**stages(), "extra": Stage("model", model="a")}
            work.solved["extra"] = 0.0
            run(planned, EVALUATION, run_dir="r")
            run({**planned, "extra": Stage("model", model="b")}, EVALUATION, run_dir="r", redo=["zero"])
        assert Path("r/zero/model").is_dir() and not Path("r/zero.1").exists()


def test_a_whole_run_ends_with_its_last_model_and_a_part_of_one_with_how_it_goes_on() -> None:
    whole = what_is_next(Path("r"), stages(), None)
    assert whole.startswith("model: r/final/model\n") and "specs test" in whole
    assert what_is_next(Path("r"), stages(), "zero") == (
        "done until zero: the same command without --until goes on from there"
    )
