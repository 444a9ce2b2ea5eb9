"""Tiny models of families that have come since 2024, those apart whose positions count time, height and width."""

from __future__ import annotations

from typing import Any

import transformers as tf
from helpers.family_parts import CLIP, SIDE, template, text_settings
from helpers.mrope_families import LINEAR_ATTENTION


def llava_onevision(tokenizer: Any) -> tuple[Any, Any]:
    tiles = {"image_grid_pinpoints": [[56, 56], [56, 112], [112, 56], [112, 112]]}
    config = tf.LlavaOnevisionConfig(
        text_config=text_settings(tokenizer, "qwen2"),
        vision_config=CLIP | {"model_type": "siglip_vision_model", "vision_use_head": False},
        image_token_index=tokenizer.get_vocab()["<|image_pad|>"],
        video_token_index=tokenizer.get_vocab()["<|video_pad|>"],
        **tiles,
    )
    processor = tf.LlavaOnevisionProcessor(
        tf.LlavaOnevisionImageProcessor(size=SIDE, **tiles),
        tokenizer,
        tf.LlavaOnevisionVideoProcessor(size=SIDE),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=template("<|image_pad|>"),
        image_token="<|image_pad|>",
        video_token="<|video_pad|>",
    )
    return config, processor


def mistral3(tokenizer: Any) -> tuple[Any, Any]:
    return _mistral3(tokenizer, "mistral", sliding_window=None)


def ministral3(tokenizer: Any) -> tuple[Any, Any]:
    """Its queries grow with their positions beyond those of its first training."""
    rope = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 16.0, "original_max_position_embeddings": 16}
    return _mistral3(tokenizer, "ministral3", rope_parameters=rope | {"llama_4_scaling_beta": 0.1})


def _mistral3(tokenizer: Any, text_type: str, **text: Any) -> tuple[Any, Any]:
    tokenizer.add_special_tokens({"additional_special_tokens": ["[IMG]", "[IMG_BREAK]", "[IMG_END]"]})
    config = tf.Mistral3Config(
        text_config=text_settings(tokenizer, text_type, **text),
        vision_config=CLIP | {"model_type": "pixtral", "image_size": 112, "head_dim": 16},
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
        tie_word_embeddings=False,
    )
    processor = tf.PixtralProcessor(
        tf.PixtralImageProcessor(patch_size=14, size={"longest_edge": 112}),
        tokenizer,
        patch_size=14,
        spatial_merge_size=2,
        chat_template=template("[IMG]"),
    )
    return config, processor


def gemma4(tokenizer: Any) -> tuple[Any, Any]:
    """As E2B and E4B are: embeddings of each layer, keys of earlier layers used again, images seen one way."""
    return _gemma4(
        tokenizer,
        num_hidden_layers=4,
        layer_types=["sliding_attention", "full_attention"] * 2,
        num_kv_shared_layers=2,
        use_double_wide_mlp=True,
        hidden_size_per_layer_input=8,
    )


def gemma4_moe(tokenizer: Any) -> tuple[Any, Any]:
    """As 26B-A4B is: experts, keys that are the values, images seen both ways."""
    return _gemma4(
        tokenizer,
        layer_types=["sliding_attention", "full_attention"],
        enable_moe_block=True,
        num_experts=4,
        top_k_experts=2,
        moe_intermediate_size=24,
        attention_k_eq_v=True,
        num_global_key_value_heads=1,
        hidden_size_per_layer_input=0,
        use_bidirectional_attention="vision",
    )


def _gemma4(tokenizer: Any, **text: Any) -> tuple[Any, Any]:
    names = {"image_token": "<|image|>", "boi_token": "<|image>", "eoi_token": "<image|>"}
    names |= {"audio_token": "<|audio|>", "boa_token": "<|audio>", "eoa_token": "<audio|>"}
    tokenizer = tf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        eos_token=tokenizer.eos_token,
        pad_token=tokenizer.pad_token,
        extra_special_tokens=names,
    )
    processor = tf.Gemma4Processor(
        tf.Gemma4AudioFeatureExtractor(),
        tf.Gemma4ImageProcessor(patch_size=4, max_soft_tokens=70),
        tokenizer,
        tf.Gemma4VideoProcessor(patch_size=4),
        chat_template=template("<|image|>"),
    )
    ids = tokenizer.get_vocab()
    per_layer = {"vocab_size_per_layer_input": len(tokenizer), "global_head_dim": 64, "sliding_window": 8}
    config = tf.Gemma4Config(
        text_config=text_settings(tokenizer, "gemma4_text", final_logit_softcapping=30.0, **per_layer, **text),
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "patch_size": 4,
            "position_embedding_size": 256,
        },
        audio_config={
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "subsampling_conv_channels": [8, 8],
            "output_proj_dims": 32,
        },
        boi_token_id=ids["<|image>"],
        eoi_token_id=ids["<image|>"],
        image_token_id=ids["<|image|>"],
        video_token_id=ids["<|video|>"],
        boa_token_id=ids["<|audio>"],
        eoa_token_index=ids["<audio|>"],
        audio_token_id=ids["<|audio|>"],
    )
    return config, processor


def minicpmv4_6(tokenizer: Any) -> tuple[Any, Any]:
    names = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
    names |= {"image_start_token": "<image>", "image_end_token": "</image>"}
    names |= {"slice_start_token": "<slice>", "slice_end_token": "</slice>"}
    names |= {"image_id_start_token": "<image_id>", "image_id_end_token": "</image_id>"}
    tokenizer = tf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        eos_token=tokenizer.eos_token,
        pad_token=tokenizer.pad_token,
        extra_special_tokens=names,
    )
    config = tf.MiniCPMV4_6Config(
        text_config=text_settings(tokenizer, "qwen3_5_text", **LINEAR_ATTENTION),
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": 56,
            "patch_size": 14,
        },
        insert_layer_id=1,
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
    )
    processor = tf.MiniCPMV4_6Processor(
        image_processor=tf.MiniCPMV4_6ImageProcessor(scale_resolution=56),
        video_processor=tf.MiniCPMV4_6VideoProcessor(scale_resolution=56),
        tokenizer=tokenizer,
        chat_template=template("<|image_pad|>"),
    )
    return config, processor
