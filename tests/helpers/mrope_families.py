"""Tiny models of families whose positions count time, height and width: Qwen-VL and GLM-V."""

from __future__ import annotations

from typing import Any

import transformers as tf
from helpers.family_parts import HIDDEN, template, text_settings
from helpers.tiny_models import CHAT_TEMPLATE


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


def _qwen_ids(ids: dict[str, int]) -> dict[str, int]:
    return {
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
    }


def qwen3_vl_moe(tokenizer: Any) -> tuple[Any, Any]:
    config, processor = qwen3_vl(tokenizer)
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
    text = config.text_config.to_dict() | {"model_type": "qwen3_vl_moe_text", **experts}
    return tf.Qwen3VLMoeConfig(text_config=text, vision_config=_of(config.vision_config), **_ids(config)), processor


LINEAR_ATTENTION: dict[str, Any] = {
    "num_hidden_layers": 2,
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 1e4,
        "mrope_section": [2, 1, 1],
        "mrope_interleaved": True,
        "partial_rotary_factor": 0.25,
    },
}
"""Of Qwen3.5's language model, in which every fourth layer attends to all tokens; here every second."""


def qwen3_5(tokenizer: Any) -> tuple[Any, Any]:
    config, processor = qwen3_vl(tokenizer)
    text = config.text_config.to_dict() | {"model_type": "qwen3_5_text", **LINEAR_ATTENTION}
    vision = _of(config.vision_config, without=("deepstack_visual_indexes",))
    return tf.Qwen3_5Config(text_config=text, vision_config=vision, **_ids(config)), processor


def qwen3_5_moe(tokenizer: Any) -> tuple[Any, Any]:
    config, processor = qwen3_vl(tokenizer)
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
    experts["shared_expert_intermediate_size"] = 24
    text = config.text_config.to_dict() | {"model_type": "qwen3_5_moe_text", **LINEAR_ATTENTION, **experts}
    vision = _of(config.vision_config, without=("deepstack_visual_indexes",))
    return tf.Qwen3_5MoeConfig(text_config=text, vision_config=vision, **_ids(config)), processor


def glm4v(tokenizer: Any) -> tuple[Any, Any]:
    return _glm(tokenizer, tf.Glm4vConfig, "glm4v_text"), _glm_processor(
        tokenizer, tf.Glm4vProcessor, tf.Glm4vImageProcessor, tf.Glm4vVideoProcessor
    )


def glm46v(tokenizer: Any) -> tuple[Any, Any]:
    return _glm(tokenizer, tf.Glm46VConfig, "glm4v_text"), _glm_processor(
        tokenizer, tf.Glm46VProcessor, tf.Glm46VImageProcessor, tf.Glm46VVideoProcessor
    )


def glm4v_moe(tokenizer: Any) -> tuple[Any, Any]:
    """The first of its layers is dense, as in the published ones."""
    experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
    return _glm(tokenizer, tf.Glm4vMoeConfig, "glm4v_moe_text", **experts), _glm_processor(
        tokenizer, tf.Glm4vProcessor, tf.Glm4vImageProcessor, tf.Glm4vVideoProcessor
    )


GLM_TOKENS = (
    "<|image|>",
    "<|begin_of_image|>",
    "<|end_of_image|>",
    "<|video|>",
    "<|begin_of_video|>",
    "<|end_of_video|>",
)


def _glm(tokenizer: Any, config_class: Any, text_type: str, **more: Any) -> Any:
    tokenizer.add_special_tokens({"additional_special_tokens": list(GLM_TOKENS)})
    ids = tokenizer.convert_tokens_to_ids(list(GLM_TOKENS))
    kinds = ("image", "image_start", "image_end", "video", "video_start", "video_end")
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2], "partial_rotary_factor": 0.5}
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": HIDDEN}
    return config_class(
        text_config=text_settings(tokenizer, text_type, rope_parameters=rope, **more),
        vision_config=vision | {"patch_size": 14, "image_size": 56},
        **{f"{kind}_token_id": token_id for kind, token_id in zip(kinds, ids, strict=True)},
    )


def _glm_processor(tokenizer: Any, processor_class: Any, images_class: Any, videos_class: Any) -> Any:
    return processor_class(
        images_class(size={"shortest_edge": 56**2, "longest_edge": 112**2}),
        tokenizer,
        videos_class(),
        chat_template=template("<|begin_of_image|><|image|><|end_of_image|>"),
    )


def _of(config: Any, without: tuple[str, ...] = ()) -> dict[str, Any]:
    return {name: value for name, value in config.to_dict().items() if name not in ("model_type", *without)}


def _ids(config: Any) -> dict[str, int]:
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    return {name: getattr(config, name) for name in names}
