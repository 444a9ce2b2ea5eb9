"""Which weights are trained: all but the vision tower's, or adapters alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.tiny_policies import mixed_batch, sharp_policy

from specs_lightning.errors import SpecsError
from specs_lightning.policy.loading import LoRASettings, PolicySettings
from specs_lightning.policy.policy import Policy


@pytest.fixture(scope="module")
def policy(tiny_model_path: Path) -> Policy:
    return sharp_policy(tiny_model_path)


@pytest.fixture(scope="module")
def folder(policy: Policy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the policy was saved to; read only."""
    return policy.save(tmp_path_factory.mktemp("save") / "exported")


class TestFreezing:
    def test_exactly_the_vision_tower_and_its_projector_are_frozen(self, policy: Policy) -> None:
        """In Qwen2.5-VL both are in `visual`: its merger is the projector."""
        frozen = {name for name, weight in policy.named_parameters() if not weight.requires_grad}
        assert frozen == {name for name, _ in policy.named_parameters() if name.startswith("model.model.visual.")}
        assert any(".merger." in name for name in frozen)
        assert {name.split(".")[2] for name, _ in policy.named_parameters()} == {"visual", "language_model"}

    def test_frozen_weights_get_no_gradient_and_the_others_all_do(self, policy: Policy) -> None:
        policy.token_logprobs(mixed_batch(policy, 2)).logprobs.sum().backward()
        has_gradient = {name for name, weight in policy.named_parameters() if weight.grad is not None}
        policy.zero_grad()
        assert has_gradient == {name for name, weight in policy.named_parameters() if weight.requires_grad}

    def test_nothing_is_frozen_unless_asked_for(self, tiny_model_path: Path) -> None:
        policy = sharp_policy(tiny_model_path, freeze_vision=False)
        assert all(weight.requires_grad for weight in policy.parameters())


@pytest.fixture(scope="module", params=["language model", "some layers", "vision tower too"])
def adapted(request: pytest.FixtureRequest, tiny_model_path: Path) -> Policy:
    """With adapters that have learned something."""
    lora, vision = {
        "language model": (LoRASettings(rank=4), False),
        "some layers": (LoRASettings(rank=4, alpha=8, target_modules=("q_proj", "down_proj")), False),
        "vision tower too": (LoRASettings(rank=4, vision=True), True),
    }[request.param]
    policy = sharp_policy(tiny_model_path, lora=lora, freeze_vision=not vision)
    for name, weight in policy.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(weight, std=0.1, generator=torch.Generator().manual_seed(0))
    return policy


class TestAdapters:
    def test_they_change_nothing_before_they_are_trained(self, policy: Policy, tiny_model_path: Path) -> None:
        adapted = sharp_policy(tiny_model_path, lora=LoRASettings(rank=4))
        batch = mixed_batch(policy, 2)
        assert torch.equal(adapted.token_logprobs(batch).logprobs, policy.token_logprobs(batch).logprobs)

    def test_they_alone_are_trained(self, adapted: Policy) -> None:
        lora = adapted.settings.lora
        assert lora is not None
        trained = [name for name, weight in adapted.named_parameters() if weight.requires_grad]
        assert trained and all(".lora_" in name for name in trained)
        layers = {name.split(".lora_")[0].rpartition(".")[2] for name in trained}
        assert not lora.target_modules or layers == set(lora.target_modules)
        assert any(".visual." in name for name in trained) == lora.vision
        assert not any("lm_head" in name for name in trained)

    def test_saved_and_pushed_weights_have_them_merged(
        self, adapted: Policy, policy: Policy, folder: Path, tmp_path: Path
    ) -> None:
        """By the names of the plain model, and without touching the trained weights."""
        before = {name: weight.clone() for name, weight in adapted.named_parameters()}
        batch = mixed_batch(policy, 2)
        expected_NT = adapted.token_logprobs(batch).logprobs
        merged = Policy(PolicySettings(str(adapted.save(tmp_path / "merged"))))
        # Rounding of the sum of weights, which a sharp model magnifies.
        assert (merged.token_logprobs(batch).logprobs - expected_NT).abs().max() <= 1e-3
        assert (policy.token_logprobs(batch).logprobs - expected_NT).abs().max() > 0.1
        pushed = dict(adapted.named_weights())
        assert set(pushed) == {name for name, _ in policy.named_weights()}
        assert all(torch.equal(weight, pushed[name]) for name, weight in merged.named_weights())
        assert all(torch.equal(weight, before[name]) for name, weight in adapted.named_parameters())

    def test_beside_bfloat16_weights_they_are_float32(self, tiny_model_path: Path) -> None:
        policy = Policy(PolicySettings(str(tiny_model_path), dtype="bfloat16", lora=LoRASettings()))
        assert {weight.dtype for weight in policy.parameters() if weight.requires_grad} == {torch.float32}
        policy.token_logprobs(mixed_batch(policy, 2)).logprobs.sum().backward()

    def test_layers_that_do_not_exist_are_refused_with_those_that_do(self, tiny_model_path: Path) -> None:
        with pytest.raises(SpecsError, match=r"\['query'\] name no linear layer; there are: down_proj, .*q_proj"):
            Policy(PolicySettings(str(tiny_model_path), lora=LoRASettings(target_modules=("query",))))

    def test_a_frozen_vision_tower_is_not_adapted(self) -> None:
        with pytest.raises(ValueError, match="freeze_vision freezes it: choose one"):
            PolicySettings("m", lora=LoRASettings(vision=True))
