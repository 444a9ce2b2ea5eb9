"""A model type that is not known trains on the log-probabilities of plain transformers, or is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from helpers.tiny_families import FAMILIES as TINY_FAMILIES
from helpers.tiny_families import qwen2_vl, qwen3_vl, save_family, text_settings, tiny_family
from helpers.tiny_models import CHAT_TEMPLATE
from helpers.tiny_policies import encode, mixed_prompts, plain_logprobs, random_completions, sharp_policy

from specs_lightning.groups import EncodedPrompt, GroupBatch
from specs_lightning.policy import families, parity
from specs_lightning.policy.families import UnsupportedModel
from specs_lightning.policy.loading import LoRASettings, PolicySettings
from specs_lightning.policy.policy import Policy
from specs_lightning.policy.processors import TextProcessor
from specs_lightning.rollout import HFEngine, SamplingSettings
from specs_lightning.rollout.sampler import EngineError

LISTED = ("qwen2_5_vl", *TINY_FAMILIES)
RECURRENT = frozenset({"qwen3_5"})


def qwen3_vl_moe(tokenizer: Any) -> tuple[Any, Any]:
    config, processor = qwen3_vl(tokenizer)
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    text = config.text_config.to_dict() | {"model_type": "qwen3_vl_moe_text", **experts}
    return tf.Qwen3VLMoeConfig(text_config=text, vision_config=_of(config.vision_config), **_ids(config)), processor


def qwen3_5(tokenizer: Any) -> tuple[Any, Any]:
    """Three of four layers are recurrent."""
    config, processor = qwen3_vl(tokenizer)
    heads = {f"linear_{what}": size for what, size in (("num_value_heads", 2), ("num_key_heads", 2))}
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1], "mrope_interleaved": True}
    text = config.text_config.to_dict() | {
        "model_type": "qwen3_5_text",
        "num_hidden_layers": 4,
        "layer_types": ["linear_attention"] * 3 + ["full_attention"],
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "rope_parameters": rope | {"partial_rotary_factor": 0.25},
        **heads,
    }
    vision = _of(config.vision_config, without=("deepstack_visual_indexes",))
    return tf.Qwen3_5Config(text_config=text, vision_config=vision, **_ids(config)), processor


def glm4v(tokenizer: Any) -> tuple[Any, Any]:
    config, processor = qwen2_vl(tokenizer)
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2], "partial_rotary_factor": 0.5}
    text = config.text_config.to_dict() | {"model_type": "glm4v_text", "rope_parameters": rope}
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 64}
    vision |= {"patch_size": 14, "image_size": 56, "spatial_merge_size": 2, "temporal_patch_size": 2}
    ids = _ids(config)
    ends = {"image_start_token_id": ids["vision_start_token_id"], "image_end_token_id": ids["vision_end_token_id"]}
    return tf.Glm4vConfig(text_config=text, vision_config=vision, **ids, **ends), processor


def gpt2(tokenizer: Any) -> tuple[Any, Any]:
    return _text_alone(tokenizer, tf.GPT2Config, n_embd=32, n_layer=2, n_head=2, n_positions=512)


def opt(tokenizer: Any) -> tuple[Any, Any]:
    sizes = {"ffn_dim": 64, "word_embed_proj_dim": 32, "hidden_size": 32, "max_position_embeddings": 512}
    return _text_alone(tokenizer, tf.OPTConfig, num_hidden_layers=2, num_attention_heads=2, **sizes)


def mistral(tokenizer: Any) -> tuple[Any, Any]:
    return _text_alone(tokenizer, tf.MistralConfig, **text_settings(tokenizer, "mistral", sliding_window=8))


def bert(tokenizer: Any) -> tuple[Any, Any]:
    """Whose head does more than multiply what its base gives."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    return _text_alone(tokenizer, tf.BertConfig, is_decoder=True, **sizes)


UNLISTED: dict[str, Callable[[Any], tuple[Any, Any]]] = {
    builder.__name__: builder for builder in (qwen3_vl_moe, qwen3_5, glm4v, gpt2, opt, mistral)
}


def _of(config: Any, without: tuple[str, ...] = ()) -> dict[str, Any]:
    return {name: value for name, value in config.to_dict().items() if name not in ("model_type", *without)}


def _ids(config: Any) -> dict[str, int]:
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    return {name: getattr(config, name) for name in names}


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
    if policy.model.config.model_type in RECURRENT:
        with pytest.raises(EngineError, match="recurrent layers"):
            engine.generate(prompts, SamplingSettings(), "s")
        return
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
    assert [len(of_one) for of_one in found] == [8, 5]
    assert parity.distance(policy, found) < 1e-5
    assert parity.distance(policy, [of_one + 0.5 for of_one in found]) == pytest.approx(0.5, abs=1e-4)
