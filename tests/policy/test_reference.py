from pathlib import Path

import pytest
import torch
from helpers.tiny_policies import mixed_batch, sharp_policy
from torch import nn

from specs_lightning.policy.loading import LoRASettings, PolicySettings
from specs_lightning.policy.policy import Policy
from specs_lightning.policy.reference import AdapterOffReference, FrozenReference, sequence_logprobs

CPU = torch.device("cpu")


@pytest.fixture
def policy(tiny_model_path: Path, tmp_path: Path) -> Policy:
    """Saved to a folder, from which a reference can be loaded."""
    return Policy(PolicySettings(str(sharp_policy(tiny_model_path).save(tmp_path / "model"))))


def change(policy: Policy) -> None:
    with torch.no_grad():
        for weight in policy.parameters():
            weight.mul_(1.1)


@pytest.mark.parametrize("max_tokens", [1, 100, 10_000])
def test_cached_sums_are_the_policys_own(policy: Policy, max_tokens: int) -> None:
    batches = [mixed_batch(policy, 2, seed) for seed in (0, 1)]
    expected_N = torch.cat([policy.token_logprobs(batch).logprobs.sum(-1) for batch in batches])
    measured_N = sequence_logprobs(policy, batches, max_tokens)
    assert not measured_N.requires_grad
    torch.testing.assert_close(measured_N, expected_N, atol=1e-4, rtol=1e-6)


def test_no_batches_give_no_sums(policy: Policy) -> None:
    assert sequence_logprobs(policy, [], 100).shape == (0,)


def test_frozen_equals_cached_at_the_start_and_stays_when_the_policy_changes(policy: Policy) -> None:
    reference = FrozenReference(Policy(policy.settings))
    batch = mixed_batch(policy, 2)
    at_start_N = sequence_logprobs(policy, [batch], 1000)
    torch.testing.assert_close(reference.token_logprobs(batch).sum(-1), at_start_N, atol=1e-4, rtol=1e-6)
    frozen_NT = reference.token_logprobs(batch)
    change(policy)
    assert torch.equal(reference.token_logprobs(batch), frozen_NT)
    assert (sequence_logprobs(policy, [batch], 1000) - at_start_N).abs().max() > 0.1


def test_frozen_scores_at_the_temperature_of_sampling(policy: Policy) -> None:
    batch = mixed_batch(policy, 2)
    batch.temperature = 0.7
    expected_NT = policy.token_logprobs(batch, 0.7).logprobs
    torch.testing.assert_close(FrozenReference(Policy(policy.settings)).token_logprobs(batch), expected_NT.detach())


def test_frozen_is_no_part_of_the_module_that_holds_it(policy: Policy) -> None:
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.policy = policy
            self.reference = FrozenReference(Policy(policy.settings))

    holder = Holder()
    assert {id(weight) for weight in holder.parameters()} == {id(weight) for weight in policy.parameters()}
    assert set(holder.state_dict()) == {f"policy.{name}" for name in policy.state_dict()}
    assert not any(weight.requires_grad for weight in holder.reference.policy.parameters())


def test_adapters_off_equals_frozen_and_cached_and_leaves_the_policy_as_it_was(
    policy: Policy,
) -> None:
    adapted = Policy(PolicySettings(policy.settings.model, lora=LoRASettings(rank=4)))
    batch = mixed_batch(policy, 2)
    at_start_N = sequence_logprobs(adapted, [batch], 1000)
    for name, weight in adapted.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(weight, std=0.1, generator=torch.Generator().manual_seed(0))
    changed_NT = adapted.token_logprobs(batch).logprobs
    reference_NT = AdapterOffReference(adapted).token_logprobs(batch)
    assert not reference_NT.requires_grad
    frozen_NT = FrozenReference(Policy(policy.settings)).token_logprobs(batch)
    torch.testing.assert_close(reference_NT, frozen_NT, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(reference_NT.sum(-1), at_start_N, atol=1e-6, rtol=1e-6)
    assert (changed_NT - reference_NT).abs().max() > 0.1
    again_NT = adapted.token_logprobs(batch).logprobs
    assert torch.equal(again_NT, changed_NT) and again_NT.requires_grad
