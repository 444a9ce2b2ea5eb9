"""What is counted without content is what a real pass allocates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny_policies import long_batch, mixed_prompts
from transformers import AutoConfig, PretrainedConfig

from specs_lightning.groups import GroupBatch
from specs_lightning.plan.lengths import Groups, Images, image_tokens, made_up_prompts
from specs_lightning.plan.shapes import model_shape
from specs_lightning.plan.trace import (
    AllocatedBytes,
    Computing,
    TracedModel,
    activations,
    decoding_bytes,
    vision_bytes,
)
from specs_lightning.policy.loading import LoRASettings, PolicySettings
from specs_lightning.policy.policy import Policy
from specs_lightning.policy.shared_prefix import join_vision

CASES: dict[str, dict[str, Any]] = {
    "whole model": {},
    "padded rows, eager attention": {"attention": "eager"},
    "adapters, checkpointing": {"lora": LoRASettings(rank=4), "gradient_checkpointing": True},
    "bfloat16": {"dtype": "bfloat16"},
    "mixed precision": {},
}
TOY = "toy:base"
BATCH = made_up_prompts(1, 40).answered(50, 4).batch(8)


@pytest.fixture(scope="module")
def config() -> PretrainedConfig:
    return model_shape(TOY)


def drop_gradients(policy: Policy) -> None:
    for weight in policy.parameters():
        if weight.requires_grad:
            weight.register_post_accumulate_grad_hook(lambda weight: setattr(weight, "grad", None))


@pytest.mark.parametrize("case", CASES)
def test_a_pass_takes_what_a_real_one_allocates(case: str) -> None:
    settings = PolicySettings(TOY, **CASES[case])
    autocast = torch.bfloat16 if case == "mixed precision" else None
    policy = Policy(settings)
    drop_gradients(policy)
    batch = long_batch(policy)
    policy.of_images(batch.prompts)  # what is kept of them counts by itself
    real = AllocatedBytes([*policy.parameters(), *policy.buffers()])
    with real, torch.autocast("cpu", autocast, enabled=autocast is not None):
        policy.token_logprobs(batch, with_entropy=True).logprobs.sum().backward()
    without_images = Groups.of(1, batch.prompts, None).prompts
    lengths = batch.lengths_N.split(batch.group_sizes)
    alike = GroupBatch.from_token_ids(without_images, [[[0] * int(n) for n in group] for group in lengths])
    counted = TracedModel(policy.model.config, settings, Computing(False, None, autocast)).training(alike)
    # Images pass through the frozen vision tower and leave nothing.
    assert counted.peak == pytest.approx(real.peak, rel=0.05)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_trained_vision_tower_takes_as_much_for_each_image_token(checkpointing: bool) -> None:
    settings = PolicySettings(TOY, freeze_vision=False, gradient_checkpointing=checkpointing)
    policy = Policy(settings)
    drop_gradients(policy)
    policy.model.train(checkpointing)  # transformers recomputes in training mode alone
    prompts = mixed_prompts(policy)[:3:2] * 4
    real = AllocatedBytes([*policy.parameters(), *policy.buffers()])
    with real:
        features = policy.model.base_model.get_image_features(**join_vision(prompts))  # joined, they are counted
    assert all(image.requires_grad for image in features.pooler_output)
    token = policy.model.config.image_token_id
    groups = Groups.of(1, prompts, token)
    assert groups.images is not None
    counted = vision_bytes(policy.model.config, settings, Computing(False), groups.images)
    share = image_tokens(groups.answered(1, 1).batch(len(prompts)), True, token) / groups.images.tokens
    assert share * counted == pytest.approx(real.now, rel=0.05)


def test_a_reference_takes_nothing_that_lasts(config: PretrainedConfig) -> None:
    model = TracedModel(config, PolicySettings(TOY), Computing(False))
    alone, compared = model.training(BATCH), model.training(BATCH, reference=True)
    assert compared.kept == alone.kept
    assert alone.peak <= compared.peak < 1.2 * alone.peak


def test_a_deep_model_is_counted_from_few_of_its_layers() -> None:
    settings, computing = PolicySettings(TOY, gradient_checkpointing=True), Computing(False)
    config = model_shape(TOY)
    config.get_text_config().num_hidden_layers = 10
    config.get_text_config().layer_types = ["full_attention"] * 10
    whole = TracedModel(config, settings, computing)
    assert activations(config, settings, computing, BATCH) == whole.training(BATCH)
    assert decoding_bytes(config, settings, computing, 8, 100) == pytest.approx(whole.decoding(8, 100), rel=0.01)


def test_a_gpu_repeats_key_heads_under_a_mask(config: PretrainedConfig) -> None:
    kept = {
        on_gpu: TracedModel(config, PolicySettings(TOY), Computing(on_gpu)).training(BATCH).kept
        for on_gpu in (True, False)
    }
    text: Any = config.get_text_config()
    repeated = text.num_attention_heads - text.num_key_value_heads
    tokens = 8 * 4 * (40 + 50)  # every completion with its prompt
    assert kept[True] - kept[False] == pytest.approx(
        2 * 4 * 4 * repeated * 32 * tokens, rel=0.3
    )  # keys, values; layers


def test_the_cache_of_the_embedded_engine_is_in_its_bytes(config: PretrainedConfig) -> None:
    text: Any = config.get_text_config()
    counted = decoding_bytes(config, PolicySettings(TOY), Computing(False), 64, 256)
    cache = 64 * 256 * 2 * 4 * text.num_hidden_layers * text.num_key_value_heads * 32
    assert cache < counted < 2 * cache


def test_no_weights_are_read(tmp_path: Path, tiny_model_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((tiny_model_path / "config.json").read_bytes())
    config, settings = AutoConfig.from_pretrained(tmp_path), PolicySettings(str(tmp_path), freeze_vision=False)
    assert activations(config, settings, Computing(), BATCH).peak > 0
    pixels = torch.ones(16, 3 * config.vision_config.temporal_patch_size * config.vision_config.patch_size**2)
    images = Images({"pixel_values": pixels, "image_grid_thw": torch.tensor([[1, 4, 4]])}, 4)
    assert vision_bytes(config, settings, Computing(), images) > 0
