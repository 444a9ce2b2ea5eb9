"""A step's groups on one process; what several do together is in strategies/test_two_processes.py."""

from __future__ import annotations

from pathlib import Path

from helpers.tiny_policies import mixed_batch, sharp_policy

from specs_lightning.policy.micro_batches import default_tokens_per_micro_batch, micro_batches


def test_a_cpu_takes_less_at_once_than_a_gpu() -> None:
    assert default_tokens_per_micro_batch("cpu") < default_tokens_per_micro_batch("cuda")


def test_one_process_has_all_groups_and_no_fillers(tiny_model_path: Path) -> None:
    policy = sharp_policy(tiny_model_path)
    batch = mixed_batch(policy, completions_per_prompt=3)
    parts = micro_batches(policy, batch, max_tokens=60)
    assert len(parts) > 1 and all(part.filler is None for part in parts)
    assert sum(map(len, parts)) == len(batch)
