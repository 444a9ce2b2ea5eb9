"""What the tiny models of several families have in common."""

from __future__ import annotations

from typing import Any

from helpers.tiny_models import CHAT_TEMPLATE

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


def template(image: str) -> str:
    """The chat template with another text for an image."""
    return CHAT_TEMPLATE.replace("<|vision_start|><|image_pad|><|vision_end|>", image)


def text_settings(tokenizer: Any, model_type: str, **settings: Any) -> dict[str, Any]:
    ids = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    return TEXT | {"model_type": model_type, "vocab_size": len(tokenizer)} | ids | settings
