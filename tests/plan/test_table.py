"""A plan in the terminal says whether a stage fits and, where it does not, what to change."""

from __future__ import annotations

import pytest
from helpers.planned_jobs import small_job
from rich.console import Console

from specs_lightning.plan.advice import Proposal, proposals
from specs_lightning.plan.cost import Cost
from specs_lightning.plan.memory import GIB, memory_of
from specs_lightning.plan.reading import PlannedWork
from specs_lightning.plan.table import Verdict, last_line, stage_table


@pytest.mark.parametrize("fits", [True, False])
def test_a_stage_that_does_not_fit_is_followed_by_proposals(fits: bool) -> None:
    needed = memory_of(small_job()).peak
    job = small_job(memory=needed if fits else needed - 1)
    cost = Cost({"processes": GIB, "shards": GIB}, {"the model": 3 * GIB}, {"sampling": 7200.0, "training": 90.0}, ())
    planned = PlannedWork("zero", job, {"completions": 12_800}, cost, notes=("lengths are made up",))
    console = Console(width=160)
    with console.capture() as capture:
        console.print(stage_table(planned, memory_of(job), proposals(job)))
    said = capture.get()
    assert "zero: toy:base, 1 process, single" in said and "GiB on each process" in said
    assert "12,800 completions" in said and "note: lengths are made up" in said
    assert "memory of the machines: 2.0 GiB (processes 1.0, shards 1.0)" in said and "disk: 3.0 GiB" in said
    assert "time: 2.0 h (sampling 2.0 h, training 90 s)" in said
    assert ("does not fit: " in said) is not fits
    assert ("-> model.policy.gradient_checkpointing: true: " in said and ", fits" in said) is not fits


def test_the_last_line_says_that_all_fits_and_how_much_the_fullest_needs() -> None:
    verdicts = [Verdict("zero", 2 * GIB, 8 * GIB), Verdict("final", 6 * GIB, 8 * GIB)]
    assert str(last_line(verdicts)) == "fits: final needs most, 6.0 of 8.0 GiB"


def test_the_last_line_names_for_each_stage_that_does_not_fit_what_is_enough() -> None:
    halved, lora = Proposal(("tokens: 1",), 9 * GIB), Proposal(("lora: {}", "dtype: bfloat16"), 7 * GIB)
    verdicts = [
        Verdict("base", 2 * GIB, 8 * GIB),
        Verdict("zero", 10 * GIB, 8 * GIB, (halved, lora)),
        Verdict("final", 11 * GIB, 8 * GIB, (halved,)),
    ]
    said = "does not fit. Change this: zero: lora: {} and dtype: bfloat16; final: take more devices, or a smaller model"
    assert str(last_line(verdicts)) == said


def test_a_single_stage_needs_no_name_in_the_last_line() -> None:
    assert str(last_line([Verdict("a.yaml", 2 * GIB, 8 * GIB)])) == "fits: it needs 2.0 of 8.0 GiB"
    said = "does not fit. Change this: take more devices, or a smaller model"
    assert str(last_line([Verdict("a.yaml", 9 * GIB, 8 * GIB)])) == said
