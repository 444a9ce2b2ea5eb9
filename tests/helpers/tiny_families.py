"""Tiny random models of every family, each with the true architecture and processor of its published ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from helpers.family_parts import CLIP, SIDE, template, text_settings
from helpers.mrope_families import glm4v, glm4v_moe, glm46v, qwen2_vl, qwen3_5, qwen3_5_moe, qwen3_vl, qwen3_vl_moe
from helpers.newer_families import (
    gemma4,
    gemma4_moe,
    llava_onevision,
    minicpmv4_6,
    ministral3,
    mistral3,
)
from helpers.tiny_models import CHAT_TEMPLATE, tiny_qwen2_5_vl, tiny_tokenizer
from safetensors.torch import load_file, save_file

from specs_lightning.policy.loading import model_class
from specs_lightning.policy.processors import TextProcessor


def llava(tokenizer: Any) -> tuple[Any, Any]:
    return _llava(tokenizer, tf.LlavaConfig, tf.LlavaProcessor, tf.CLIPImageProcessor)


def llava_next(tokenizer: Any) -> tuple[Any, Any]:
    tiles = {"image_grid_pinpoints": [[56, 112], [112, 56], [112, 112]]}
    return _llava(tokenizer, tf.LlavaNextConfig, tf.LlavaNextProcessor, tf.LlavaNextImageProcessor, **tiles)


def _llava(tokenizer: Any, config_class: Any, processor_class: Any, images_class: Any, **tiles: Any) -> tuple[Any, Any]:
    config = config_class(
        text_config=text_settings(tokenizer, "llama"),
        vision_config=CLIP | {"model_type": "clip_vision_model"},
        image_token_index=tokenizer.get_vocab()["<|image_pad|>"],
        image_seq_length=16,
        **tiles,
    )
    processor = processor_class(
        images_class(size={"shortest_edge": 56}, crop_size=SIDE, **tiles),
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        chat_template=template("<|image_pad|>"),
        image_token="<|image_pad|>",
        num_additional_image_tokens=1,
    )
    return config, processor


def idefics3(tokenizer: Any) -> tuple[Any, Any]:
    return _idefics(tokenizer, tf.Idefics3Config, tf.Idefics3Processor, tf.Idefics3ImageProcessor, "idefics3_vision")


def smolvlm(tokenizer: Any) -> tuple[Any, Any]:
    return _idefics(tokenizer, tf.SmolVLMConfig, tf.SmolVLMProcessor, tf.SmolVLMImageProcessor, "smolvlm_vision")


def _idefics(
    tokenizer: Any, config_class: Any, processor_class: Any, images_class: Any, vision: str
) -> tuple[Any, Any]:
    tokenizer.add_special_tokens(
        {"additional_special_tokens": ["<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>"]}
    )
    tokenizer.image_token, tokenizer.fake_image_token = "<image>", "<fake_token_around_image>"
    tokenizer.image_token_id = tokenizer.convert_tokens_to_ids("<image>")
    tokenizer.global_image_token, tokenizer.end_of_utterance_token = "<global-img>", "<end_of_utterance>"
    tokenizer.init_kwargs |= {"extra_special_tokens": {"image_token": "<image>"}}
    config = config_class(
        text_config=text_settings(tokenizer, "llama"),
        vision_config={
            "model_type": vision,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 56,
            "patch_size": 14,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id,
        scale_factor=2,
    )
    images = images_class(size={"longest_edge": 112}, max_image_size={"longest_edge": 56})
    more = (tf.SmolVLMVideoProcessor(),) if processor_class is tf.SmolVLMProcessor else ()
    processor = processor_class(images, tokenizer, *more, image_seq_len=4, chat_template=template("<image>"))
    return config, processor


def internvl(tokenizer: Any) -> tuple[Any, Any]:
    return _internvl(tokenizer, "qwen2")


def internvl3_5(tokenizer: Any) -> tuple[Any, Any]:
    return _internvl(tokenizer, "qwen3")


def internvl3_5_moe(tokenizer: Any) -> tuple[Any, Any]:
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
    return _internvl(tokenizer, "qwen3_moe", **experts)


def _internvl(tokenizer: Any, text_type: str, **text: Any) -> tuple[Any, Any]:
    names = {
        "start_image_token": "<|vision_start|>",
        "end_image_token": "<|vision_end|>",
        "context_image_token": "<|image_pad|>",
        "video_token": "<|video_pad|>",
    }
    tokenizer = tf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        eos_token=tokenizer.eos_token,
        pad_token=tokenizer.pad_token,
        extra_special_tokens=names,
    )
    config = tf.InternVLConfig(
        text_config=text_settings(tokenizer, text_type, **text),
        vision_config=CLIP | {"model_type": "internvl_vision", "image_size": [56, 56], "patch_size": [14, 14]},
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        image_seq_length=4,
    )
    processor = tf.InternVLProcessor(
        tf.GotOcr2ImageProcessor(size=SIDE, crop_to_patches=False),
        tokenizer,
        tf.InternVLVideoProcessor(),
        image_seq_length=4,
        chat_template=template("<|image_pad|>"),
    )
    return config, processor


def gemma3(tokenizer: Any) -> tuple[Any, Any]:
    names = {"image_token": "<|image_pad|>", "boi_token": "<|vision_start|>", "eoi_token": "<|vision_end|>"}
    tokenizer = tf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        eos_token=tokenizer.eos_token,
        pad_token=tokenizer.pad_token,
        extra_special_tokens=names,
    )
    tokenizer.add_tokens(["\n" * count for count in (1, 2, 3, 4)])
    ids = tokenizer.get_vocab()
    config = tf.Gemma3Config(
        text_config=text_settings(
            tokenizer, "gemma3_text", sliding_window=8, layer_types=["sliding_attention", "full_attention"]
        ),
        vision_config=CLIP | {"model_type": "siglip_vision_model"},
        mm_tokens_per_image=4,
        boi_token_index=ids["<|vision_start|>"],
        eoi_token_index=ids["<|vision_end|>"],
        image_token_index=ids["<|image_pad|>"],
    )
    processor = tf.Gemma3Processor(
        tf.Gemma3ImageProcessor(size=SIDE),
        tokenizer,
        image_seq_length=4,
        chat_template=template("<|vision_start|>"),
    )
    return config, processor


def qwen3(tokenizer: Any) -> tuple[Any, Any]:
    tokenizer.chat_template = CHAT_TEMPLATE
    return tf.Qwen3Config(**text_settings(tokenizer, "qwen3")), TextProcessor(tokenizer)


FAMILIES: dict[str, Callable[[Any], tuple[Any, Any]]] = {
    builder.__name__: builder
    for builder in (
        qwen2_vl,
        qwen3_vl,
        llava,
        llava_next,
        idefics3,
        smolvlm,
        internvl,
        gemma3,
        qwen3,
        qwen3_vl_moe,
        qwen3_5,
        qwen3_5_moe,
        glm4v,
        glm46v,
        glm4v_moe,
        internvl3_5,
        internvl3_5_moe,
        gemma4,
        gemma4_moe,
        llava_onevision,
        mistral3,
        ministral3,
        minicpmv4_6,
    )
}

KIN = frozenset({"qwen3_5_moe", "glm46v", "glm4v_moe", "internvl3_5", "internvl3_5_moe", "gemma4_moe", "ministral3"})
"""Each is like another one, which is in every run of the tests."""
NEWER = frozenset({"qwen3_vl_moe", "qwen3_5", "glm4v", "gemma4", "llava_onevision", "mistral3", "minicpmv4_6", *KIN})
"""Whose vLLM is not started in every run."""
NOT_ON_VLLM = {
    "qwen3_vl_moe": "it reads norm_topk_prob, which transformers' configuration does not have",
    "qwen3_5": "it wants chunked prefill, which is off here",
    "qwen3_5_moe": "it wants chunked prefill, which is off here",
    "minicpmv4_6": "it wants chunked prefill, which is off here",
    "glm46v": "its text model lacks do_not_compile",
    "glm4v_moe": "it reads use_qk_norm, which transformers' configuration does not have",
    "internvl3_5_moe": "sizes of the experts' weights",
    "gemma4": "it reads default_output_length, which transformers' configuration does not have",
    "gemma4_moe": "it reads default_output_length, which transformers' configuration does not have",
    "llava_onevision": "it has other names for the vision tower's weights",
    "ministral3": "other log-probabilities than transformers'",
}
"""What of vLLM 0.32 on a CPU fails with the tiny models."""


def tiny_family(name: str, folder: Path) -> Path:
    """Save a random model of a family (float32, the same weights each time) with its processor into `folder`."""
    if name == "qwen2_5_vl":
        return tiny_qwen2_5_vl(folder, heads=2)
    save_family(FAMILIES[name], folder)
    place = folder / "model.safetensors"
    save_file(_as_published(name, load_file(place)), place, {"format": "pt"})
    return folder


def _as_published(name: str, weights: dict[str, Any]) -> dict[str, Any]:
    """Under the names and in the layout of published files, where transformers would write others."""
    if name in ("llava", "llava_next", "gemma3"):  # an older transformers wrote them
        return {n.replace("vision_tower.", "vision_tower.vision_model."): w for n, w in weights.items()}
    if name == "qwen3_vl_moe":
        return {n: w.transpose(1, 2).contiguous() if ".experts." in n else w for n, w in weights.items()}
    return _experts_in_one(weights) if name == "qwen3_5_moe" else weights


def _experts_in_one(weights: dict[str, Any]) -> dict[str, Any]:
    """`experts.0.gate_proj.weight` and its like as `experts.gate_up_proj` and `experts.down_proj`."""
    parts: dict[str, dict[str, Any]] = {}
    for name in [name for name in weights if ".experts." in name]:
        layer, _, rest = name.partition(".experts.")
        parts.setdefault(f"{layer}.experts", {})[rest] = weights.pop(name)
    for experts, tensors in parts.items():
        n = len(tensors) // 3
        gate, up, down = (
            torch.stack([tensors[f"{e}.{part}_proj.weight"] for e in range(n)]) for part in ("gate", "up", "down")
        )
        weights |= {f"{experts}.gate_up_proj": torch.cat([gate, up], dim=1), f"{experts}.down_proj": down}
    return weights


def save_family(build: Callable[[Any], tuple[Any, Any]], folder: Path) -> Path:
    """Save a random model of the configuration that is built, given a tokenizer, with the processor beside it."""
    config, processor = build(tiny_tokenizer())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = model_class(config).from_config(config)
        for weight in model.parameters():
            # Gemma's projector is zero, and no image would make a difference; a tiny SigLIP's weights are so large that
            # rounding would.
            if weight.dim() > 1 and not 0 < weight.std() < 0.1:
                torch.nn.init.normal_(weight, std=0.02)
    tokenizer = processor.tokenizer
    model.generation_config = tf.GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
