"""What is to be done of a run is known before anything is: what each stage takes, and what it must wait for."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.stand_in_work import Work

from specs_lightning.data.sources import PromptSource
from specs_lightning.runs.measurement import EvaluationSettings
from specs_lightning.runs.planned_stages import PipelineError, PlannedStage, Stage, plan_stages, with_template

EVALUATION = EvaluationSettings(PromptSource("id.jsonl"), {"ood": PromptSource("ood.jsonl")})
STAGES = {
    "base": Stage("model", model="toy:base"),
    "zero": Stage("fit", "grpo.yaml"),
    "distill": Stage("distill", "distill.yaml", overrides={"zero": "${zero.model}", "base": "${base.model}"}),
    "cold_start": Stage("fit", "cold_start.yaml", overrides={"data.train": "${distill.pairs}"}),
}


def planned(**stages: Stage) -> dict[str, PlannedStage]:
    return {found.name: found for found in plan_stages({**STAGES, **stages}, EVALUATION, Path("r"), 0, None)}


def test_references_become_what_the_stages_before_hand_on(work: Work) -> None:
    plan = planned()
    assert plan["distill"].stage.overrides == {"zero": "r/zero/model", "base": "toy:base"}
    assert plan["cold_start"].stage.overrides == {"data.train": "r/distill/pairs.parquet"}
    assert plan["cold_start"].upstream == ("distill",)


def test_a_stage_waits_for_what_it_takes_and_for_answers_that_it_is_held_against(work: Work) -> None:
    held_against = {"trainer.callbacks.baseline": "${base.answers}", "model.policy.model": "${cold_start.model}"}
    plan = planned(final=Stage("fit", "grpo.yaml", overrides=held_against))
    assert plan["zero"].needs == {"zero": set(), "zero: evaluation": {"zero"}}
    assert plan["distill"].needs["distill"] == {"base", "zero"}
    assert plan["cold_start"].needs["cold_start"] == {"distill"}
    assert plan["final"].needs["final"] == {"base: evaluation", "cold_start"}


@pytest.mark.parametrize("wrong", ["${later.model}", "${base.weights}", "${zero.model}"])
def test_a_reference_that_leads_nowhere_is_named(work: Work, wrong: str) -> None:
    with pytest.raises(PipelineError, match=r"stage zero asks for \$\{.*the stages before it are base"):
        planned(zero=Stage("fit", "grpo.yaml", overrides={"x": [wrong]}))


def test_a_missing_file_is_named(work: Work) -> None:
    with pytest.raises(PipelineError, match=r"no such configuration file: missing\.yaml"):
        planned(zero=Stage("fit", "missing.yaml"))


def test_a_stage_without_its_file_is_refused() -> None:
    with pytest.raises(ValueError, match="a stage of kind fit needs a config"):
        Stage("fit")


def test_what_the_template_is_told_is_told_in_every_stage_that_says_nothing_else() -> None:
    other = {"model.policy.chat_template_kwargs": {"enable_thinking": True}}
    told = with_template({**STAGES, "other": Stage("fit", "grpo.yaml", overrides=other)}, {"enable_thinking": False})
    of_a_policy = {"model.policy.chat_template_kwargs": {"enable_thinking": False}}
    assert told["base"].overrides == told["zero"].overrides == of_a_policy
    assert told["cold_start"].overrides == of_a_policy | STAGES["cold_start"].overrides
    assert told["distill"].overrides == STAGES["distill"].overrides | {
        "chat_template_kwargs": {"enable_thinking": False}
    }
    assert told["other"].overrides == other
    assert with_template(STAGES, None) == STAGES
