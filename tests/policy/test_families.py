"""Every supported family of models, as a tiny random model of its true architecture with its true processor.

`docs/make_model_families.py` makes the table of the documentation from the results of these tests.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny_families import FAMILIES, KIN, NEWER, NOT_ON_VLLM, tiny_family
from helpers.tiny_policies import (
    encode,
    gradient,
    plain_inputs,
    plain_logprobs,
    random_completions,
    relative_difference,
)
from helpers.tiny_policies import sharp_policy as policy_of
from safetensors import safe_open
from torch import nn
from transformers import (
    AutoConfig,
    GraniteConfig,
    LlavaConfig,
    MiniCPMV4_6Config,
    Phi4MultimodalConfig,
    Qwen3Config,
)

from specs_lightning.groups import EncodedPrompt, GroupBatch
from specs_lightning.policy.families import UnsupportedModel, family_of, use_linear_patch_embedding, vision_modules
from specs_lightning.policy.loading import LoRASettings, PolicySettings, model_class
from specs_lightning.policy.policy import Policy
from specs_lightning.rollout import HFEngine, SamplingSettings, VLLMEngine, VLLMSettings
from specs_lightning.rollout.engine import RolloutEngine
from specs_lightning.rollout.sampler import EngineError

TEXT_ONLY = frozenset({"qwen3"})
PADDED = frozenset({"gemma3", "gemma4", "gemma4_moe", "qwen3_5", "qwen3_5_moe", "minicpmv4_6"})
ONE_WAY_ON_CPU = frozenset({"gemma3"})
FEATURES_ARE_TRAINED = frozenset({"llava_next", "llava_onevision"})
"""In part: what is put at the end of each of an image's lines is none of the tower's weights."""
NAMES = ("qwen2_5_vl", *FAMILIES)
LORA = LoRASettings(rank=4, alpha=8)
ROUTER = "model.language_model.layers.0.mlp.gate.weight"


def _long(names: frozenset[str]) -> list[Any]:
    return [pytest.param(name, marks=[pytest.mark.long] * (name in names)) for name in NAMES]


def _on_vllm() -> list[Any]:
    def marks(name: str) -> list[Any]:
        fails = [pytest.mark.xfail(strict=True, reason=NOT_ON_VLLM[name])] if name in NOT_ON_VLLM else []
        return [*fails, *([pytest.mark.long] * (name in NEWER))]

    return [pytest.param(name, marks=marks(name)) for name in NAMES]


@pytest.fixture(scope="module", params=_long(KIN))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model_path(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_family(name, tmp_path_factory.mktemp(name))


@pytest.fixture(scope="module")
def policy(model_path: Path) -> Policy:
    """Whose weights no test changes."""
    return policy_of(model_path, freeze_vision=False)


def prompts_for(policy: Policy) -> list[EncodedPrompt]:
    """Of different lengths, with one, several and no images of different shapes where the family takes images."""
    sizes: Sequence[tuple[tuple[int, int], ...]] = [((84, 84),), (), ((56, 112), (84, 56)), ()]
    questions = ("How many red squares are there?", "What is 7 - 3?", "Which has more circles?", "Find x. " * 4)
    images = bool(vision_modules(policy.model))
    return [
        encode(policy, f"p{i}", q, s if images else ()) for i, (q, s) in enumerate(zip(questions, sizes, strict=True))
    ]


def batch_for(policy: Policy) -> GroupBatch:
    return GroupBatch.from_token_ids(prompts_for(policy), random_completions(policy, [2, 1, 2, 1]))


def test_shared_prefix_logprobs_and_gradients_are_those_of_each_sequence_alone(name: str, policy: Policy) -> None:
    batch = batch_for(policy)
    assert policy.shared_prefix == (name not in PADDED)
    expected_NT, actual_NT = plain_logprobs(policy, batch), policy.token_logprobs(batch).logprobs
    torch.testing.assert_close(actual_NT, expected_NT.where(batch.mask_NT, 0), rtol=0, atol=1e-5)
    weights_NT = torch.randn(batch.mask_NT.shape, generator=torch.Generator().manual_seed(0))
    expected, actual = (gradient(policy, (x * weights_NT).sum()) for x in (expected_NT, actual_NT))
    assert relative_difference(actual, expected) < 1e-5


def test_kept_features_of_a_frozen_tower_give_what_the_tower_gives(name: str, model_path: Path) -> None:
    policy = policy_of(model_path)
    batch = batch_for(policy)
    found = [policy.token_logprobs(batch).logprobs for _ in range(2)]
    gradients = [gradient(policy, found_NT.sum()) for found_NT in found]
    assert (policy.image_features is None) == (name in TEXT_ONLY | FEATURES_ARE_TRAINED)
    policy.image_features = None
    expected_NT = policy.token_logprobs(batch).logprobs
    expected = gradient(policy, expected_NT.sum())
    for found_NT, of_found in zip(found, gradients, strict=True):
        torch.testing.assert_close(found_NT, expected_NT, rtol=0, atol=1e-5)
        assert relative_difference(of_found, expected) < 1e-5


@pytest.mark.parametrize("adapted", [False, True], ids=["full", "lora"])
def test_evaluation_mode_is_training_mode_without_dropout(model_path: Path, adapted: bool) -> None:
    """Policies are trained in it: no library may take a path for inference there that gives something else."""
    policy = policy_of(model_path, freeze_vision=False, lora=LoRASettings(rank=4, vision=True) if adapted else None)
    batch = batch_for(policy)
    found_NT = policy.token_logprobs(batch).logprobs
    found = gradient(policy, found_NT.sum())
    assert not any(module.training for module in policy.modules())
    for module in policy.modules():
        module.training = True
    expected_NT = policy.token_logprobs(batch).logprobs
    assert torch.equal(found_NT, expected_NT)
    assert torch.equal(found, gradient(policy, expected_NT.sum()))


def test_the_embedded_engine_samples_from_the_policy_and_from_the_changed_policy(model_path: Path) -> None:
    assert_samples_from_the_policy(HFEngine(), policy_of(model_path))


@pytest.mark.slow
@pytest.mark.parametrize("name", _on_vllm(), indirect=True)
def test_vllm_samples_from_the_policy_and_from_the_changed_policy(name: str, model_path: Path) -> None:
    engine = VLLMEngine(VLLMSettings(max_model_len=1024, kv_cache_gib=0.25))
    policy = policy_of(model_path, freeze_vision=False)  # a frozen tower is handed over once
    if name in ONE_WAY_ON_CPU:
        with pytest.raises(EngineError, match="one way"):
            engine.sync(policy)
        return
    assert_samples_from_the_policy(engine, policy)


def assert_samples_from_the_policy(engine: RolloutEngine, policy: Policy) -> None:
    prompts = prompts_for(policy)
    try:
        for seed in "01":
            engine.sync(policy)
            groups = engine.generate(prompts, SamplingSettings(completions_per_prompt=3, max_tokens=8), seed)
            batch = GroupBatch.from_token_ids(prompts, [[c.token_ids for c in group] for group in groups])
            with torch.no_grad():
                trainer_M = policy.token_logprobs(batch).logprobs[batch.mask_NT]
            engine_M = torch.tensor([logprob for group in groups for c in group for logprob in c.logprobs])
            torch.testing.assert_close(engine_M, trainer_M, rtol=0, atol=1e-4)
            change_all_weights(policy)
        with torch.no_grad():  # weights left as they were would show
            changed_M = policy.token_logprobs(batch).logprobs[batch.mask_NT]
        assert (changed_M - engine_M).abs().max() > 1e-2
    finally:
        engine.close()


def change_all_weights(policy: Policy) -> None:
    """As an optimizer step does: the vision tower's, the projector's, norms and biases too."""
    generator = torch.Generator().manual_seed(policy.version)
    with torch.no_grad():
        for weight in policy.model.parameters():
            weight += 0.05 * weight.abs().mean() * torch.randn(weight.shape, generator=generator)
    policy.version += 1


def test_images_matter_and_the_vision_tower_learns(name: str, policy: Policy) -> None:
    if name in TEXT_ONLY:
        with pytest.raises(ValueError, match="takes no images"):
            encode(policy, "p", "How many?", [(84, 84)])
        return
    completions = random_completions(policy, [1])
    of_small, of_large = (
        policy.token_logprobs(
            GroupBatch.from_token_ids([encode(policy, "p", "How many?", [size])], completions)
        ).logprobs
        for size in ((84, 84), (100, 100))
    )
    assert not torch.allclose(of_small, of_large, atol=1e-3)
    of_small.sum().backward()
    for module in vision_modules(policy.model):
        assert any(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in module.parameters())


def test_lora_trains_adapters_alone_and_its_export_is_a_plain_model_with_the_same_logprobs(
    model_path: Path, tmp_path: Path
) -> None:
    policy = policy_of(model_path, lora=LORA)
    trained = [name for name, weight in policy.named_parameters() if weight.requires_grad]
    assert trained and all(".lora_" in name for name in trained)
    assert all(isinstance(layer.base_layer, nn.Linear) for layer in policy._adapted_layers().values())
    batch = batch_for(policy)
    before_NT = policy.token_logprobs(batch).logprobs.detach()
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if ".lora_B" in name:
                weight.normal_(std=0.05)
    after_NT = policy.token_logprobs(batch).logprobs.detach()
    assert not torch.allclose(before_NT, after_NT, atol=1e-2)
    exported = Policy(PolicySettings(str(policy.save(tmp_path / "model"))))
    torch.testing.assert_close(exported.token_logprobs(batch_for(exported)).logprobs, after_NT, rtol=0, atol=1e-3)


def shapes(folder: Path) -> dict[str, list[int]]:
    """Of the tensors in a model's file, by name."""
    with safe_open(folder / "model.safetensors", "pt") as file:
        return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118  it is no mapping


def test_plain_transformers_loads_the_export_with_the_same_logits(
    policy: Policy, model_path: Path, tmp_path: Path
) -> None:
    folder = policy.save(tmp_path / "model")
    loaded, info = model_class(AutoConfig.from_pretrained(folder)).from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert shapes(folder) == shapes(model_path)
    inputs = plain_inputs(policy, prompts_for(policy)[0])
    with torch.no_grad():
        torch.testing.assert_close(loaded.eval()(**inputs).logits, policy.model(**inputs).logits, rtol=1e-5, atol=1e-5)


def test_layers_with_windows_train_on_padded_rows(caplog: pytest.LogCaptureFixture) -> None:
    text = Qwen3Config(num_hidden_layers=2, sliding_window=8, use_sliding_window=True, max_window_layers=1)
    assert not family_of(text).shared_prefix
    assert not family_of(LlavaConfig(text_config=text.to_dict())).shared_prefix
    assert "padded rows" in caplog.text


def test_a_language_model_that_is_not_known_makes_its_vision_language_model_unknown() -> None:
    of_llama, of_phi = (
        family_of(LlavaConfig(text_config=text)) for text in ({"model_type": "llama"}, {"model_type": "phi"})
    )
    assert of_llama.tested and of_llama.shared_prefix
    assert not of_phi.tested and not of_phi.shared_prefix


def test_a_language_model_that_cannot_share_a_prefix_decides_for_its_vision_language_model() -> None:
    family = family_of(MiniCPMV4_6Config(text_config={"model_type": "qwen3_5_text"}))
    assert family.tested and not family.shared_prefix
    assert family_of(MiniCPMV4_6Config(text_config={"model_type": "qwen3"})).shared_prefix


def test_a_model_that_changes_its_logits_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="logits_scaling"):
        family_of(GraniteConfig(logits_scaling=8.0))


def test_a_model_whose_images_need_more_than_its_weights_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedModel, match=r"'phi4_multimodal' is unsupported: .* LoRA adapter"):
        family_of(Phi4MultimodalConfig())


def test_positions_that_follow_from_the_longest_sequence_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    factors = {"short_factor": [1.0] * 16, "long_factor": [2.0] * 16}
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 64, **factors}
    family_of(Qwen3Config(rope_parameters=rope, head_dim=32, max_position_embeddings=128))
    assert "within 64 tokens" in caplog.text


class TestRouterLoss:
    """The auxiliary loss of mixtures of experts: no objective adds it, whatever config.json says."""

    @pytest.fixture(scope="class")
    def asking(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder = tiny_family("qwen3_vl_moe", tmp_path_factory.mktemp("asking"))
        config = json.loads((folder / "config.json").read_text())
        config["text_config"] |= {"output_router_logits": True, "router_aux_loss_coef": 1.0}
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    def test_it_is_not_in_the_gradient_and_a_model_that_asks_for_it_is_warned_of(
        self, asking: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        policy = policy_of(asking)
        assert "router's auxiliary loss" in caplog.text
        batch, router = batch_for(policy), policy.model.get_parameter(ROUTER)
        own, plain = (
            logprobs.sum() for logprobs in (policy.token_logprobs(batch).logprobs, plain_logprobs(policy, batch))
        )
        (found,), (expected,) = (torch.autograd.grad(loss, router) for loss in (own, plain))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)

    def test_transformers_would_add_it_to_the_loss_of_labels(self, asking: Path) -> None:
        """So that the test above has something to find."""
        policy = policy_of(asking)
        inputs = plain_inputs(policy, prompts_for(policy)[1])
        with_it = policy.model(**inputs, labels=inputs["input_ids"])
        without = policy.model(**inputs, labels=inputs["input_ids"], output_router_logits=False)
        assert with_it.loss > without.loss + 0.1

    def test_the_export_keeps_what_config_json_says(self, asking: Path, tmp_path: Path) -> None:
        saved = json.loads((policy_of(asking).save(tmp_path / "model") / "config.json").read_text())
        assert saved["text_config"]["output_router_logits"] and saved["text_config"]["router_aux_loss_coef"] == 1.0


def patch_embeddings(bias: bool) -> tuple[nn.Conv3d, nn.Conv3d]:
    torch.manual_seed(0)
    plain = nn.Conv3d(3, 16, (2, 7, 7), stride=(2, 7, 7), bias=bias)
    linear = nn.Conv3d(3, 16, (2, 7, 7), stride=(2, 7, 7), bias=bias)
    linear.load_state_dict(plain.state_dict())
    use_linear_patch_embedding(nn.Sequential(linear))
    return plain, linear


def test_patch_embeddings_as_matrix_products_have_the_outputs_and_gradients_of_the_convolutions() -> None:
    for bias in (False, True):
        plain, linear = patch_embeddings(bias)
        patches = torch.randn(10, 3, 2, 7, 7)
        torch.testing.assert_close(linear(patches), plain(patches))
        for embedding in (plain, linear):
            embedding(patches).square().sum().backward()
        for measured, expected in zip(linear.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(measured.grad, expected.grad)


def test_images_that_are_not_cut_yet_are_convolved() -> None:
    plain, linear = patch_embeddings(bias=True)
    images = torch.randn(2, 3, 4, 21, 14)
    assert torch.equal(linear(images), plain(images))


def test_convolutions_that_overlap_are_left_alone() -> None:
    overlapping = nn.Conv3d(3, 16, (2, 7, 7), stride=(1, 7, 7))
    use_linear_patch_embedding(nn.Sequential(overlapping))
    assert "forward" not in vars(overlapping)
