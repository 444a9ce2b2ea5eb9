"""A frozen vision tower runs once an image, and never stands for another: not for changed weights, types or images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny_policies import encode, mixed_prompts, random_completions, sharp_policy
from torch import Tensor

from specs_lightning.groups import EncodedPrompt, GroupBatch
from specs_lightning.policy.image_features import ImageFeatures, features_of, size
from specs_lightning.policy.loading import LoRASettings, PolicySettings
from specs_lightning.policy.policy import Policy
from specs_lightning.rollout import HFEngine, SamplingSettings


@pytest.fixture
def policy(tiny_model_path: Path) -> Policy:
    return sharp_policy(tiny_model_path)


@pytest.fixture
def images_run(policy: Policy) -> list[int]:
    """How many images each call of the tower had."""
    found: list[int] = []

    def note(module: Any, args: Any, kwargs: dict[str, Tensor]) -> None:
        found.append(len(kwargs["grid_thw"]))

    policy.model.base_model.visual.register_forward_pre_hook(note, with_kwargs=True)
    return found


def kept_of(policy: Policy) -> ImageFeatures:
    assert policy.image_features is not None
    return policy.image_features


def with_image(policy: Policy, width: int = 84) -> EncodedPrompt:
    return encode(policy, "p", "How many?", ((width, 84),))


def one_embedding(policy: Policy, prompt: EncodedPrompt) -> Tensor:
    features = kept_of(policy).of([prompt])
    assert features is not None
    return torch.cat(list(features.pooler_output))


def test_sampling_scoring_and_training_run_the_tower_once_a_prompt(policy: Policy, images_run: list[int]) -> None:
    prompts, engine = mixed_prompts(policy), HFEngine()
    engine.sync(policy)
    engine.generate(prompts, SamplingSettings(2, 4), "s")
    assert images_run == [1, 3]  # of four prompts, two have images
    batch = GroupBatch.from_token_ids(prompts, random_completions(policy, [2, 2, 2, 2]))
    for part in batch.micro_batches(max_tokens=60):
        policy.token_logprobs(part).logprobs.sum().backward()
    assert images_run == [1, 3]


def test_the_same_images_in_another_prompt_are_the_same(policy: Policy, images_run: list[int]) -> None:
    first, second = (encode(policy, name, name, ((84, 84),)) for name in ("How many?", "Which colour?"))
    assert torch.equal(one_embedding(policy, first), one_embedding(policy, second))
    assert images_run == [1]


def test_after_a_change_of_the_tower_features_are_its_new_ones(policy: Policy) -> None:
    prompt = with_image(policy)
    before = one_embedding(policy, prompt)
    with torch.no_grad():
        next(policy.model.base_model.visual.parameters()).mul_(2.0)
    after = one_embedding(policy, prompt)
    kept_of(policy)._kept.clear()
    assert not torch.equal(before, after) and torch.equal(after, one_embedding(policy, prompt))
    policy.load_state_dict({name: 0.5 * tensor for name, tensor in policy.state_dict().items()})
    assert not torch.equal(after, one_embedding(policy, prompt))


def test_features_have_the_type_that_they_are_computed_in(policy: Policy) -> None:
    prompt = with_image(policy)
    assert one_embedding(policy, prompt).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        reduced = one_embedding(policy, prompt)
    expected = one_embedding(policy, prompt)
    assert expected.dtype == torch.float32 and not torch.equal(reduced.float(), expected)


@pytest.mark.parametrize(
    "settings", [{"freeze_vision": False}, {"freeze_vision": False, "lora": LoRASettings(rank=2, vision=True)}]
)
def test_of_a_tower_that_is_trained_nothing_is_kept(tiny_model_path: Path, settings: dict[str, Any]) -> None:
    assert Policy(PolicySettings(str(tiny_model_path), **settings)).image_features is None


def test_of_a_model_that_takes_no_features_nothing_is_kept(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    assert features_of(policy.model) is not None
    monkeypatch.setattr(policy.model.base_model, "forward", lambda input_ids, pixel_values: None)
    assert features_of(policy.model) is None


def test_the_least_lately_used_go_where_there_is_no_room(policy: Policy, images_run: list[int]) -> None:
    a, b, c = (with_image(policy, width) for width in (28, 56, 84))
    kept = kept_of(policy)
    for prompt in (a, b, a):
        one_embedding(policy, prompt)
    kept.max_bytes = kept.bytes
    one_embedding(policy, c)
    assert len(images_run) == 3 and kept.bytes <= kept.max_bytes
    one_embedding(policy, c)
    assert len(images_run) == 3
    one_embedding(policy, b)
    assert len(images_run) == 4


def test_what_has_more_than_the_room_is_kept_alone(policy: Policy) -> None:
    kept = kept_of(policy)
    kept.max_bytes = 1
    features = [kept.of([with_image(policy, width)]) for width in (28, 56)]
    assert features[1] is not None and kept.bytes == size(features[1]) > 1


def test_a_prompt_that_does_not_hold_its_images_is_computed_each_time(policy: Policy, images_run: list[int]) -> None:
    prompt = with_image(policy)
    prompt.prompt = None
    for _ in range(2):
        one_embedding(policy, prompt)
    assert images_run == [1, 1] and kept_of(policy).bytes == 0
