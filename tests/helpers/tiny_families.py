"""Tiny random models of every family, each with the true architecture and processor of its published ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from helpers.tiny_models import CHAT_TEMPLATE, tiny_qwen2_5_vl, tiny_tokenizer
from safetensors.torch import load_file, save_file

from specs_lightning.policy.loading import model_class
from specs_lightning.policy.processors import TextProcessor

HIDDEN = 64
TEXT: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,  # the smallest that vLLM takes on a CPU
    "max_position_embeddings": 2048,
}
CLIP: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 56,
    "patch_size": 14,
}
SIDE = {"height": 56, "width": 56}


def _template(image: str) -> str:
    """The chat template with another text for an image."""
    return CHAT_TEMPLATE.replace("<|vision_start|><|image_pad|><|vision_end|>", image)


def text_settings(tokenizer: Any, model_type: str, **settings: Any) -> dict[str, Any]:
    ids = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    return TEXT | {"model_type": model_type, "vocab_size": len(tokenizer)} | ids | settings


def qwen2_vl(tokenizer: Any) -> tuple[Any, Any]:
    ids = tokenizer.get_vocab()
    config = tf.Qwen2VLConfig(
        text_config=text_settings(
            tokenizer,
            "qwen2_vl_text",
            rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 6, 6]},
        ),
        vision_config={"depth": 2, "embed_dim": 32, "hidden_size": HIDDEN, "num_heads": 2, "mlp_ratio": 2},
        **_qwen_ids(ids),
    )
    processor = tf.Qwen2VLProcessor(
        tf.Qwen2VLImageProcessor(min_pixels=56**2, max_pixels=112**2),
        tokenizer,
        tf.Qwen2VLVideoProcessor(),
        chat_template=CHAT_TEMPLATE,
    )
    return config, processor


def qwen3_vl(tokenizer: Any) -> tuple[Any, Any]:
    ids = tokenizer.get_vocab()
    config = tf.Qwen3VLConfig(
        text_config=text_settings(
            tokenizer,
            "qwen3_vl_text",
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 1e4,
                "mrope_section": [4, 6, 6],
                "mrope_interleaved": True,
            },
        ),
        vision_config={
            "depth": 3,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": HIDDEN,
            "patch_size": 14,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
        },
        **_qwen_ids(ids),
    )
    processor = tf.Qwen3VLProcessor(
        tf.Qwen2VLImageProcessor(min_pixels=56**2, max_pixels=112**2, patch_size=14),
        tokenizer,
        tf.Qwen3VLVideoProcessor(),
        chat_template=CHAT_TEMPLATE,
    )
    return config, processor


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
        chat_template=_template("<|image_pad|>"),
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
    processor = processor_class(images, tokenizer, *more, image_seq_len=4, chat_template=_template("<image>"))
    return config, processor


def internvl(tokenizer: Any) -> tuple[Any, Any]:
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
        text_config=text_settings(tokenizer, "qwen2"),
        vision_config=CLIP | {"model_type": "internvl_vision", "image_size": [56, 56], "patch_size": [14, 14]},
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        image_seq_length=4,
    )
    processor = tf.InternVLProcessor(
        tf.GotOcr2ImageProcessor(size=SIDE, crop_to_patches=False),
        tokenizer,
        tf.InternVLVideoProcessor(),
        image_seq_length=4,
        chat_template=_template("<|image_pad|>"),
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
        chat_template=_template("<|vision_start|>"),
    )
    return config, processor


def qwen3(tokenizer: Any) -> tuple[Any, Any]:
    tokenizer.chat_template = CHAT_TEMPLATE
    return tf.Qwen3Config(**text_settings(tokenizer, "qwen3")), TextProcessor(tokenizer)


FAMILIES: dict[str, Callable[[Any], tuple[Any, Any]]] = {
    builder.__name__: builder
    for builder in (qwen2_vl, qwen3_vl, llava, llava_next, idefics3, smolvlm, internvl, gemma3, qwen3)
}


def tiny_family(name: str, folder: Path) -> Path:
    """Save a random model of a family (float32, the same weights each time) with its processor into `folder`."""
    if name == "qwen2_5_vl":
        return tiny_qwen2_5_vl(folder, heads=2)
    save_family(FAMILIES[name], folder)
    if name in ("llava", "llava_next", "gemma3"):  # published with the names of an older transformers
        weights = load_file(folder / "model.safetensors")
        published = {n.replace("vision_tower.", "vision_tower.vision_model."): w for n, w in weights.items()}
        save_file(published, folder / "model.safetensors", {"format": "pt"})
    return folder


def save_family(build: Callable[[Any], tuple[Any, Any]], folder: Path) -> Path:
    """Save a random model of the configuration that is built, given a tokenizer, with the processor beside it."""
    config, processor = build(tiny_tokenizer())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = model_class(config).from_config(config)
        for weight in model.parameters():
            if weight.dim() > 1 and not weight.any():  # Gemma's projector: no image would make a difference
                torch.nn.init.normal_(weight, std=0.02)
    tokenizer = processor.tokenizer
    model.generation_config = tf.GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _qwen_ids(ids: dict[str, int]) -> dict[str, int]:
    return {
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
    }
