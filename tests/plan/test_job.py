"""A stage's micro-batches are those of one process's share of a step."""

from __future__ import annotations

from dataclasses import replace

from helpers.planned_jobs import small_job


def test_processes_share_a_step() -> None:
    job = small_job(groups_per_step=8, max_tokens=200)  # a row: a prompt of 40 tokens, four completions of 25
    assert [[len(batch.prompts) for batch in batches] for batches in job.micro_batches()] == [[1] * 8]
    shared = replace(job, devices=replace(job.devices, ranks=3)).micro_batches()
    assert [len(batches) for batches in shared] == [3] * 3
    assert sorted(sum(len(batch) for batch in batches) for batches in shared) == [10, 11, 11]


def test_attention_that_takes_no_layout_repeats_the_prompt() -> None:
    job = small_job(groups_per_step=2, max_tokens=140)
    eager = replace(job, policy=replace(job.policy, attention="eager"))
    assert (job.shared_prefix, eager.shared_prefix) == (True, False)
    assert [len(batch) for batch in eager.micro_batches()[0]] == [2] * 4  # rows of 65 tokens
