"""A model type that is not known trains on the log-probabilities of plain transformers, or is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from helpers.family_parts import text_settings
from helpers.tiny_families import FAMILIES as TINY_FAMILIES
from helpers.tiny_families import NEWER, llava, save_family, tiny_family
from helpers.tiny_models import CHAT_TEMPLATE
from helpers.tiny_policies import encode, mixed_prompts, plain_logprobs, random_completions, sharp_policy

from specs_lightning.groups import EncodedPrompt, GroupBatch
from specs_lightning.policy import families, parity
from specs_lightning.policy.families import UnsupportedModel
from specs_lightning.policy.loading import LoRASettings, PolicySettings
from specs_lightning.policy.policy import Policy
from specs_lightning.policy.processors import TextProcessor
from specs_lightning.rollout import HFEngine, SamplingSettings

KNOWN_OTHERWISE = frozenset({"minicpmv4_6"})
"""Whose images are not joined in the usual way."""
LISTED = [
    pytest.param(name, marks=[pytest.mark.long] * (name in NEWER))
    for name in ("qwen2_5_vl", *TINY_FAMILIES)
    if name not in KNOWN_OTHERWISE
]


def vipllava(tokenizer: Any) -> tuple[Any, Any]:
    config, processor = llava(tokenizer)
    settings = {name: getattr(config, name) for name in ("text_config", "vision_config", "image_token_index")}
    return tf.VipLlavaConfig(**settings, image_seq_length=16, vision_feature_layers=[-2, -1]), processor


def gpt2(tokenizer: Any) -> tuple[Any, Any]:
    return _text_alone(tokenizer, tf.GPT2Config, n_embd=32, n_layer=2, n_head=2, n_positions=512)


def opt(tokenizer: Any) -> tuple[Any, Any]:
    sizes = {"ffn_dim": 64, "word_embed_proj_dim": 32, "hidden_size": 32, "max_position_embeddings": 512}
    return _text_alone(tokenizer, tf.OPTConfig, num_hidden_layers=2, num_attention_heads=2, **sizes)


def gemma2(tokenizer: Any) -> tuple[Any, Any]:
    """Whose logits have a cap."""
    sizes = text_settings(tokenizer, "gemma2", sliding_window=8, query_pre_attn_scalar=32)
    return _text_alone(tokenizer, tf.Gemma2Config, **sizes, final_logit_softcapping=3.0)


def lfm2(tokenizer: Any) -> tuple[Any, Any]:
    """One of two layers is a convolution, which remembers its last inputs in place of keys."""
    layers = {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False}
    return _text_alone(tokenizer, tf.Lfm2Config, **text_settings(tokenizer, "lfm2", **layers))


def bert(tokenizer: Any) -> tuple[Any, Any]:
    """Whose head does more than multiply what its base gives."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    return _text_alone(tokenizer, tf.BertConfig, is_decoder=True, **sizes)


UNLISTED: dict[str, Callable[[Any], tuple[Any, Any]]] = {
    builder.__name__: builder for builder in (vipllava, gpt2, opt, gemma2, lfm2)
}


def _text_alone(tokenizer: Any, config_class: Any, **settings: Any) -> tuple[Any, Any]:
    tokenizer.chat_template = CHAT_TEMPLATE
    ids = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    return config_class(**{"vocab_size": len(tokenizer), **ids, **settings}), TextProcessor(tokenizer)


def prompts_for(policy: Policy) -> list[EncodedPrompt]:
    if policy.takes_images:
        return mixed_prompts(policy)
    return [encode(policy, f"p{number}", "What is left? " * number) for number in (3, 1, 2)]


def assert_those_of_transformers(policy: Policy) -> None:
    """On padded rows of prompts with images and without, of different lengths; and those of the embedded engine."""
    assert not policy.shared_prefix
    prompts = prompts_for(policy)
    batch = GroupBatch.from_token_ids(prompts, random_completions(policy, [3] * len(prompts)))
    with torch.no_grad():
        expected_NT, found_NT = plain_logprobs(policy, batch), policy.token_logprobs(batch).logprobs
    torch.testing.assert_close(found_NT, expected_NT.where(batch.mask_NT, 0), rtol=0, atol=2e-5)
    engine = HFEngine()
    engine.sync(policy)
    groups = engine.generate(prompts, SamplingSettings(completions_per_prompt=3, max_tokens=8), "s")
    drawn = GroupBatch.from_token_ids(prompts, [[c.token_ids for c in group] for group in groups])
    with torch.no_grad():
        trainer_M = policy.token_logprobs(drawn).logprobs[drawn.mask_NT]
    engine_M = torch.tensor([logprob for group in groups for c in group for logprob in c.logprobs])
    torch.testing.assert_close(engine_M, trainer_M, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", LISTED)
def test_a_family_whose_line_is_taken_away_trains_on_the_same_log_probabilities(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(families, "FAMILIES", {})
    assert_those_of_transformers(sharp_policy(tiny_family(name, tmp_path)))


@pytest.mark.parametrize("name", UNLISTED)
def test_a_type_that_is_not_listed_trains_on_those_of_transformers(name: str, tmp_path: Path) -> None:
    assert name not in families.FAMILIES
    assert_those_of_transformers(sharp_policy(save_family(UNLISTED[name], tmp_path)))


def test_a_family_whose_images_would_be_joined_wrongly_is_refused_when_its_line_is_taken_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = str(tiny_family("minicpmv4_6", tmp_path))
    monkeypatch.delitem(families.FAMILIES, "minicpmv4_6")
    with pytest.raises(UnsupportedModel, match=r"'minicpmv4_6' is not known, and its inputs cannot be built"):
        Policy(PolicySettings(model, freeze_vision=False))  # a frozen tower runs each prompt's images apart


def test_a_type_of_which_we_would_make_something_else_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=r"model type 'bert' is not known, and its .* nats from"):
        Policy(PolicySettings(str(save_family(bert, tmp_path))))


@pytest.mark.parametrize(
    "settings", [{}, {"dtype": "bfloat16", "lora": LoRASettings(rank=4)}], ids=["float32", "adapters"]
)
def test_plain_positions_in_place_of_its_own_are_noticed(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    """The kind that trainer and engine agree on."""
    monkeypatch.delitem(families.FAMILIES, "qwen2_5_vl")
    Policy(PolicySettings("toy:base", **settings))
    monkeypatch.setattr(families, "_positions", lambda model, prompt: torch.arange(len(prompt)).expand(4, -1))
    with pytest.raises(UnsupportedModel, match=r"'qwen2_5_vl' is not known, and its .* be 0\.\d+ nats from"):
        Policy(PolicySettings("toy:base", **settings))


def test_token_types_left_out_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(families.FAMILIES, "gemma3")
    model = str(tiny_family("gemma3", tmp_path))
    monkeypatch.setattr("specs_lightning.policy.policy.token_types_asked_for", lambda model: ())
    with pytest.raises(UnsupportedModel, match=r"'gemma3' is not known, and its .* nats from"):
        Policy(PolicySettings(model))


def test_inputs_that_cannot_be_built_are_refused_with_the_cause(
    tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(families.FAMILIES, "qwen2_5_vl")

    def forward(*args: object, **kwargs: object) -> None:
        raise TypeError("unexpected keyword argument 'position_ids'")

    monkeypatch.setattr(Policy, "hidden_states", forward)
    with pytest.raises(UnsupportedModel, match=r"'qwen2_5_vl' .* cannot be built \(TypeError: .*'position_ids'\)"):
        Policy(PolicySettings(str(tiny_model_path)))


def test_a_processor_that_makes_no_token_types_leaves_mrope_unknown(tiny_model_path: Path) -> None:
    policy = sharp_policy(tiny_model_path)
    prompt = mixed_prompts(policy)[0]
    prompt.token_types = {}
    with pytest.raises(UnsupportedModel, match=r"'qwen2_5_vl' takes positions that follow from mm_token_type_ids"):
        policy.positions(prompt)


def test_plain_log_probabilities_are_those_of_one_forward_pass(tiny_model_path: Path) -> None:
    policy = sharp_policy(tiny_model_path)
    found = parity.plain_logprobs(policy, policy.model)
    assert [len(of_one) for of_one in found] == [8, 5, 3]
    assert parity.distance(policy, found) < 1e-5
    assert parity.distance(policy, [of_one + 0.5 for of_one in found]) == pytest.approx(0.5, abs=1e-4)
