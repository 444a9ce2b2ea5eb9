"""The shapes of published models, so that a run can be planned before anything is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers
from transformers import PretrainedConfig

from specs_lightning.errors import SpecsError
from specs_lightning.policy.model_files import model_source

_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")


def _text(*sizes: int, **further: Any) -> dict[str, Any]:
    return dict(zip(_SIZES, sizes, strict=True)) | further


def _tower(hidden: int, intermediate: int, **further: Any) -> dict[str, Any]:
    return {"hidden_size": hidden, "intermediate_size": intermediate, **further}


def _qwen2_5_vl(*sizes: int, vocabulary: int = 152064, vision: int = 3420, tied: bool = False) -> dict[str, Any]:
    return {
        "model_type": "qwen2_5_vl",
        "text_config": _text(*sizes, vocab_size=vocabulary, tie_word_embeddings=tied),
        "vision_config": _tower(1280, vision, depth=32, num_heads=16, out_hidden_size=sizes[0]),
        "tie_word_embeddings": tied,
    }


SHAPES: dict[str, dict[str, Any]] = {
    "Qwen2.5-VL-3B": _qwen2_5_vl(2048, 11008, 36, 16, 2, vocabulary=151936, tied=True),
    "Qwen2.5-VL-7B": _qwen2_5_vl(3584, 18944, 28, 28, 4),
    "Qwen2.5-VL-32B": _qwen2_5_vl(5120, 27648, 64, 40, 8, vision=3456),
    "Qwen2.5-VL-72B": _qwen2_5_vl(8192, 29568, 80, 64, 8, vision=3456),
    "Qwen3-VL-8B": {
        "model_type": "qwen3_vl",
        "text_config": _text(4096, 12288, 36, 32, 8, vocab_size=151936, head_dim=128),
        "vision_config": _tower(1152, 4304, depth=27, num_heads=16, out_hidden_size=4096, patch_size=16)
        | {"num_position_embeddings": 2304, "deepstack_visual_indexes": [8, 16, 24]},
    },
    "SmolVLM-256M": {
        "model_type": "idefics3",
        "text_config": _text(576, 1536, 30, 9, 3, vocab_size=49280, model_type="llama", pad_token_id=2)
        | {"max_position_embeddings": 8192},
        "vision_config": _tower(768, 3072, num_hidden_layers=12, num_attention_heads=12)
        | {"image_size": 512, "patch_size": 16},
        "scale_factor": 4,
        "image_token_id": 49190,
        "pad_token_id": 2,
    },
    "SmolVLM2-2.2B": {
        "model_type": "smolvlm",
        "text_config": _text(2048, 8192, 24, 32, 32, vocab_size=49280, model_type="llama", pad_token_id=2)
        | {"max_position_embeddings": 8192},
        "vision_config": _tower(1152, 4304, num_hidden_layers=27, num_attention_heads=16)
        | {"image_size": 384, "patch_size": 14},
        "scale_factor": 3,
        "image_token_id": 49190,
    },
}
"""A test holds their numbers of weights equal to the published ones."""


def published(model: str) -> dict[str, Any] | None:
    """The shape of a published model by its name, with or without its owner's; None of others."""
    return SHAPES.get(model.rpartition("/")[2].removesuffix("-Instruct"))


def model_shape(model: str) -> PretrainedConfig:
    """The configuration of a model: a folder with a `config.json`, a shape from here, or a name on the hub.

    Raises:
        SpecsError: there is none of these.
    """
    if (shape := published(model)) is not None and not Path(model).is_dir():
        return transformers.AutoConfig.for_model(**shape)
    source = model_source(model)
    if not Path(source).is_dir() and "/" not in str(source):
        raise SpecsError(f"{model} is no model folder; known shapes are {', '.join(SHAPES)}")
    try:
        config: PretrainedConfig = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False)
        return config
    except OSError as error:
        raise SpecsError(
            f"the shape of {model} is not known here, and the hub did not give it ({str(error).splitlines()[0]}). Give "
            f"--shape a folder with its config.json, or one of: {', '.join(SHAPES)}"
        ) from error
