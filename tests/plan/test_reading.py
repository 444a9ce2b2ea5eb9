"""Configuration files become jobs: one for a training, one for each stage of a run, with what they will get through."""

from __future__ import annotations

import pytest
from helpers.command_line import ROOT, working_directory

from specs_lightning.errors import SpecsError
from specs_lightning.plan.reading import PlannedWork, read

SIZES = ("--rows=100", "--prompt_tokens=40", "--completion_tokens=25")


def planned(*arguments: str) -> list[PlannedWork]:
    with working_directory(ROOT):
        return list(read([*arguments, *SIZES]))


def test_a_run_gives_a_job_for_each_stage_that_needs_a_device() -> None:
    jobs = {work.name: work.job for work in planned("--config=configs/toy/smoke.yaml")}
    assert {"zero", "distill", "cold_start", "final"} <= jobs.keys()
    assert jobs["zero"].training is not None and jobs["zero"].sampling is not None
    assert jobs["cold_start"].sampling is None
    assert jobs["distill"].training is None


def test_more_processes_than_a_step_can_keep_busy_are_noted() -> None:
    training = "--config=configs/toy/cold_start.yaml", "--data.batch_size=8"
    (two,), (three,) = (planned(*training, f"--world_size={ranks}") for ranks in (2, 3))
    assert not any("wait" in note for note in two.notes)
    (note,) = (note for note in three.notes if "wait" in note)
    assert "8 parts that can be dealt to 3 processes" in note and "wait 11%" in note and "data.batch_size" in note


@pytest.mark.parametrize(
    "arguments",
    ["--config=configs/smolvlm_256m/final.yaml", "--config=configs/smolvlm_256m/distill.yaml"],
    ids=["training", "distillation"],
)
def test_what_cannot_be_known_yet_is_assumed_and_said(arguments: str) -> None:
    """Neither its data nor the model that it starts from is there."""
    with working_directory(ROOT):
        (work,) = read([arguments, "--gpu_memory_gb=80"])
    said = "\n".join(work.notes)
    assert "prompts: assumed to be" in said and "tokens of a prompt: assumed to be 1,024 (--prompt_tokens)" in said
    assert work.job.config.model_type == "idefics3"
    assert ("cold_start/model is not there: assumed to have the shape of" in said) == ("final" in arguments)


def test_of_several_models_beneath_one_that_is_not_there_it_is_the_nearest() -> None:
    files = ("qwen2_5_vl_7b/zero", "smolvlm2_2b/zero", "smolvlm2_2b/final")
    (work,) = planned(*(f"--config=configs/{file}.yaml" for file in files))
    assert work.job.config.model_type == "smolvlm"


def test_an_evaluation_is_planned_too() -> None:
    (work,) = planned("--config=configs/toy/evaluate.yaml")
    assert work.job.training is None and work.job.sampling is not None
    assert work.work["tokens sampled"] == work.work["completions"] * 25


def test_servers_that_the_run_starts_sample_beside_each_other() -> None:
    run = "--config=configs/qwen2_5_vl_7b/specs.yaml", "--sampled_per_second=10", "--until=base"
    two, four = (planned(*run, *more)[0] for more in ([], ["--servers={count: 4, devices: [4, 5, 6, 7]}"]))
    assert two.cost.seconds["sampling"] == 2 * four.cost.seconds["sampling"] == two.work["tokens sampled"] / 10 / 2


def test_evaluations_while_it_trains_are_counted() -> None:
    """Before the first step, every 25 and at the end: 24 rounds' steps are asked about twice."""
    (work,) = planned("--config=configs/toy/grpo.yaml", "--sampled_per_second=1", "--trained_per_second=1")
    assert work.cost.seconds["evaluations"] == 2 * (50 + 4 * 25) * 128


def test_a_training_that_would_be_refused_is_refused() -> None:
    with working_directory(ROOT), pytest.raises(SpecsError, match=r"must be float32"):
        list(read(["--config=configs/toy/grpo.yaml", "--model.policy.dtype=bfloat16", *SIZES]))


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(SpecsError, match=r"no such file: none\.yaml"):
        list(read(["--config=none.yaml"]))
