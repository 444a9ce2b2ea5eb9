"""What is proposed is enough where anything is, and the least of it comes first."""

from __future__ import annotations

from dataclasses import replace

import pytest
from helpers.planned_jobs import small_job

from specs_lightning.plan.advice import proposals
from specs_lightning.plan.memory import memory_of


@pytest.fixture(scope="module")
def needed() -> int:
    """Bytes of the small job."""
    return memory_of(small_job()).peak


def test_each_single_change_that_is_enough_is_proposed(needed: int) -> None:
    found = proposals(small_job(memory=needed - 1))
    assert found[0].settings == ("model.policy.gradient_checkpointing: true",)
    assert ("model.max_tokens_per_micro_batch: 140",) in {proposal.settings for proposal in found}
    assert all(len(proposal.settings) == 1 and proposal.peak < needed for proposal in found)


def test_where_no_single_one_is_enough_they_are_joined(needed: int) -> None:
    (found,) = proposals(small_job(memory=1))
    names = [setting.partition(":")[0] for setting in found.settings]
    assert len(names) == len(set(names)) > 2
    assert 1 < found.peak < needed


def test_shards_are_proposed_where_there_are_processes_to_hold_them(needed: int) -> None:
    job = small_job(memory=needed - 1)
    several = replace(job, devices=replace(job.devices, ranks=4, strategy="ddp"))
    assert ("trainer.strategy: fsdp2",) in {proposal.settings for proposal in proposals(several)}
