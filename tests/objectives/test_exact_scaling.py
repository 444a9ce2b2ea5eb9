"""A step's loss and gradient do not depend on how it is split into micro-batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.tiny_policies import gradient, mixed_prompts, random_completions, relative_difference, sharp_policy
from torch import Tensor

from specs_lightning.groups import GroupBatch
from specs_lightning.objectives import (
    CISPO,
    DPO,
    GRPO,
    IPO,
    ORPO,
    SAPO,
    SFT,
    APODown,
    APOZero,
    BatchScaled,
    Clipped,
    ColdStartObjective,
    LeaveOneOut,
    LengthNormalizedDPO,
    LossTerms,
    MismatchCorrection,
    PerReward,
    SimPO,
)
from specs_lightning.objectives.base import Part
from specs_lightning.policy.policy import Policy

COLD_START = {
    "dpo": DPO(),
    "dpo alone": DPO(sft_weight=0),
    "dpo, summed sft": DPO(sft_normalization="sum"),
    "sft": SFT(),
    "summed sft": SFT(normalization="sum"),
    "length-normalised dpo": LengthNormalizedDPO(),
    "ipo": IPO(),
    "simpo": SimPO(),
    "orpo": ORPO(),
    "apo-zero": APOZero(),
    "apo-down": APODown(),
}
MISMATCH = {
    f"{kind} by {level}": GRPO(mismatch=MismatchCorrection(kind, level, cap=1.3, floor=0.7))
    for kind in ("none", "truncated", "masked")
    for level in ("token", "sequence")
}
GRPO_VARIANTS = {
    "token": GRPO(),
    "sequence": GRPO(aggregation="sequence", kl_coefficient=0.1),
    "constant": GRPO(aggregation="constant", constant_length=12, advantage_scale="none"),
    "sequence ratio": GRPO(aggregation="sequence", ratio="sequence", clip_low=0.05, clip_high=0.05),
    "token, sequence ratio": GRPO(ratio="sequence", kl_coefficient=0.1),
    "truncated masked": GRPO(mask_truncated=True),
    "dual clip": GRPO(surrogate=Clipped(dual_clip=1.4)),
    "cispo": GRPO(surrogate=CISPO(cap=1.3)),
    "sapo": GRPO(surrogate=SAPO(), aggregation="sequence"),
    "leave one out": GRPO(advantages=LeaveOneOut()),
    "batch-scaled": GRPO(advantages=BatchScaled()),
    "per reward": GRPO(advantages=PerReward()),
    "entropy bonus": GRPO(entropy_coefficient=0.5),
    **MISMATCH,
}


@pytest.fixture(scope="module")
def policy(tiny_model_path: Path) -> Policy:
    return sharp_policy(tiny_model_path)


def step_batch(policy: Policy, sizes: list[int]) -> GroupBatch:
    """A step slightly off the sampling policy, with images and texts, a truncated and an unscored completion."""
    batch = GroupBatch.from_token_ids(mixed_prompts(policy), random_completions(policy, sizes))
    with torch.no_grad():
        logprobs_NT = policy.token_logprobs(batch).logprobs
    generator = torch.Generator().manual_seed(0)

    def near() -> Tensor:
        return (logprobs_NT + 0.3 * torch.randn(logprobs_NT.shape, generator=generator)) * batch.mask_NT

    rewards_N = torch.rand(len(batch), generator=generator)
    rewards_N[1] = float("nan")
    reference_NT = near()
    return replace(
        batch,
        rewards_N=rewards_N,
        rewards_NK=torch.stack([rewards_N, -rewards_N.square()], -1),
        reward_weights=(1.0, 0.5),
        finished_N=torch.arange(len(batch)) % 5 != 3,
        old_logprobs_NT=near(),
        sampler_logprobs_NT=near(),
        reference_logprobs_NT=reference_NT,
        reference_logprobs_N=reference_NT.sum(-1),
    )


def check_split(
    policy: Policy,
    batch: GroupBatch,
    loss_of: Callable[[GroupBatch], LossTerms],
    whole_groups: bool,
) -> None:
    whole = loss_of(batch)
    expected = gradient(policy, whole.loss)
    losses, measured = 0.0, torch.zeros_like(expected)
    joined: dict[str, Part] = {}
    parts = batch.micro_batches(90, policy.shared_prefix, whole_groups)
    for part in parts:
        terms = loss_of(part)
        measured += gradient(policy, terms.loss)
        losses += terms.loss.item()
        joined = {name: joined[name].join(part) if joined else part for name, part in terms.metrics.items()}
    assert len(parts) > 2
    assert expected.norm() > 0
    assert losses == pytest.approx(whole.loss.item(), rel=1e-5)
    assert relative_difference(measured, expected) <= 1e-5
    assert joined.keys() == whole.metrics.keys()
    for name, part in whole.metrics.items():
        assert joined[name].value.item() == pytest.approx(part.value.item(), rel=1e-4), name


@pytest.mark.parametrize("name", COLD_START)
def test_cold_start(policy: Policy, name: str) -> None:
    objective: ColdStartObjective = COLD_START[name]
    batch = step_batch(policy, [objective.completions_per_prompt] * 4)
    denominator = objective.denominator(batch)
    check_split(
        policy,
        batch,
        lambda part: objective(policy.token_logprobs(part).logprobs, part, denominator),
        whole_groups=True,
    )


@pytest.mark.parametrize("name", GRPO_VARIANTS)
def test_grpo(policy: Policy, name: str) -> None:
    grpo = GRPO_VARIANTS[name]
    batch = grpo.weigh(step_batch(policy, [4, 2, 3, 6]))
    denominator = grpo.denominator(batch)

    def loss_of(part: GroupBatch) -> LossTerms:
        scored = policy.token_logprobs(part, entropy_gradient=grpo.entropy_coefficient > 0)
        return grpo(scored.logprobs, part, denominator, scored.entropy)

    check_split(policy, batch, loss_of, whole_groups=False)
