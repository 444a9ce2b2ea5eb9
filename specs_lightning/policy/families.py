"""What differs between model families: positions, vision token ids, the vision tower, and the row layout.

A family is added by a line in `FAMILIES`. One that is not listed is trained on padded rows, which every model takes,
and only where its log-probabilities are those of plain transformers (`parity.py`).
"""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import AutoConfig

from specs_lightning.errors import SpecsError
from specs_lightning.groups import TOKEN_TYPES, EncodedPrompt

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

log = logging.getLogger(__name__)

_VISION_ID = re.compile(r"(image|video|vision|audio)(_start|_end)?_token_(id|index)|[be]o[ia]_token_(id|index)")
_LOGIT_CHANGES = ("logits_scaling", "logit_scale")
_REFUSED = {
    "phi4_multimodal": "its published weights read images by a LoRA adapter beside them, and its processor in "
    "transformers takes no chat template"
}
_OF_LONGEST = frozenset({"dynamic", "longrope"})
_VISION_MODULES = (
    "visual",
    "vision_tower",
    "vision_model",
    "multi_modal_projector",
    "connector",
    "merger",  # MiniCPM-V
    "embed_vision",  # Gemma 4
)
_AUDIO_MODULES = ("audio_tower", "embed_audio")


class UnsupportedModel(SpecsError, ValueError):
    """A model that cannot be trained without being wrong."""


@dataclass(frozen=True)
class ModelFamily:
    """How a family of models is packed.

    Args:
        shared_prefix: whether its attention is causal over all of a row, as that over shared-prefix rows is.
        tested: whether tests hold its log-probabilities equal to plain transformers'; if not, they are compared as a
            policy is made of it.
        joined_along: the axis along which tensors of several prompts' images are joined, by name, where it is not 0.
    """

    shared_prefix: bool
    tested: bool = True
    joined_along: Mapping[str, int] = field(default_factory=dict)


_SHARED = ModelFamily(shared_prefix=True)
_PADDED = ModelFamily(shared_prefix=False)
_UNKNOWN = ModelFamily(shared_prefix=False, tested=False)

FAMILIES: dict[str, ModelFamily] = {
    "qwen2_vl": _SHARED,
    "qwen2_5_vl": _SHARED,
    "qwen3_vl": _SHARED,
    "qwen3_vl_moe": _SHARED,
    "qwen3_5": _PADDED,  # three of four layers hold a state in place of keys: it has no mask
    "qwen3_5_moe": _PADDED,
    "glm4v": _SHARED,
    "glm4v_moe": _SHARED,
    "glm46v": _SHARED,
    "llava": _SHARED,
    "llava_next": _SHARED,
    "llava_onevision": _SHARED,
    "idefics3": _SHARED,
    "smolvlm": _SHARED,
    "internvl": _SHARED,
    "mistral3": _SHARED,
    "minicpmv4_6": replace(_SHARED, joined_along={"pixel_values": -1}),
    "gemma3": _PADDED,  # its images are seen both ways, and layers have windows
    "gemma4": _PADDED,
    "llama": _SHARED,
    "qwen2": _SHARED,
    "qwen3": _SHARED,
    "qwen3_moe": _SHARED,
    "mistral": _SHARED,
    "ministral3": _SHARED,
    "glm4v_text": _SHARED,
    "qwen3_5_text": _PADDED,
}


def family_of(config: PretrainedConfig) -> ModelFamily:
    """The family of a model by its `model_type`; an unknown one is packed into padded rows.

    Some vision-language models take any language model: both must be known, and one that cannot share a prefix
    decides for both.

    Raises:
        UnsupportedModel: its logits are not its head's output alone, so that log-probabilities would be wrong, or its
            images are not read by its weights alone.
    """
    if reason := _REFUSED.get(config.model_type):
        raise UnsupportedModel(f"model type {config.model_type!r} is unsupported: {reason}")
    text = config.get_text_config()
    if changed := [name for name in _LOGIT_CHANGES if getattr(text, name, None) not in (None, 1, 1.0)]:
        how = ", ".join(changed)
        raise UnsupportedModel(f"model type {config.model_type!r} changes its logits ({how}): unsupported")
    _warn_of_what_is_left_out(config.model_type, text)
    family = FAMILIES.get(config.model_type)
    of_language: Any = config.sub_configs.get("text_config")
    if family is not None and of_language is AutoConfig:
        family = _with_language_model(family, FAMILIES.get(text.model_type))
    if family is None:
        return _UNKNOWN
    if family.shared_prefix and _has_windows(text):
        family = replace(family, shared_prefix=False, tested=False)
    if not family.shared_prefix:
        log.warning("model type %r trains on padded rows: its attention cannot share a prompt", config.model_type)
    return family


def _warn_of_what_is_left_out(kind: str, text: PretrainedConfig) -> None:
    if getattr(text, "output_router_logits", False):
        log.warning(
            "model type %r: config.json asks for the router's auxiliary loss (output_router_logits). No objective adds "
            "it: the router is trained by the objective alone",
            kind,
        )
    rope: Mapping[str, Any] = getattr(text, "rope_parameters", None) or {}
    if rope.get("rope_type") in _OF_LONGEST:
        log.warning(
            "model type %r scales positions by the longest sequence of a batch: keep prompt and completion together "
            "within %s tokens, beyond which one sequence would change another's log-probabilities",
            kind,
            rope.get("original_max_position_embeddings", text.max_position_embeddings),
        )


def _with_language_model(family: ModelFamily, language: ModelFamily | None) -> ModelFamily:
    if language is None:
        return replace(family, shared_prefix=False, tested=False)
    return replace(family, shared_prefix=family.shared_prefix and language.shared_prefix)


def _has_windows(text: PretrainedConfig) -> bool:
    """Whether any layer looks back over a limited number of tokens."""
    kinds = getattr(text, "layer_types", None)
    if kinds is None:
        return getattr(text, "sliding_window", None) is not None
    return any(kind != "full_attention" for kind in kinds)


def prompt_positions(model: PreTrainedModel, prompt: EncodedPrompt) -> Tensor:
    """The position ids of a prompt, (rows, P), computed once and kept with the prompt.

    One row, or as many as the model takes with M-RoPE: then they are its own `get_rope_index`'s, in the form in which
    its `generate` uses them.

    Raises:
        UnsupportedModel: they cannot be known, since its processor does not tell image tokens from others.
    """
    if prompt.position_ids is None:
        prompt.position_ids = _positions(model, prompt)
    return prompt.position_ids


def _positions(model: PreTrainedModel, prompt: EncodedPrompt) -> Tensor:
    rope_index: Callable[..., Any] | None = getattr(model.base_model, "get_rope_index", None)  # those with M-RoPE alone
    if rope_index is None:
        return torch.arange(len(prompt))[None]
    types = {name: of_prompt.cpu()[None] for name, of_prompt in prompt.token_types.items()}
    needed = set(inspect.signature(rope_index).parameters) & set(TOKEN_TYPES)
    if prompt.vision and needed - set(types):
        lacking = ", ".join(needed - set(types))
        raise UnsupportedModel(
            f"model type {model.config.model_type!r} takes positions that follow from {lacking}, which its processor "
            "does not make: unsupported"
        )
    ids_1P = prompt.input_ids.cpu()[None]
    of_images = {name: t.cpu() for name, t in prompt.vision.items() if not t.is_floating_point()}
    known = {"attention_mask": torch.ones_like(ids_1P), **types, **of_images}
    positions: Tensor = model._prepare_position_ids_for_generation(ids_1P, known)  # type: ignore[operator]
    return positions[:, 0] if positions.dim() == 3 else positions


def token_types_asked_for(model: PreTrainedModel) -> tuple[str, ...]:
    """Which kinds of token types the model's forward pass takes."""
    parameters = inspect.signature(model.base_model.forward).parameters
    return tuple(name for name in TOKEN_TYPES if name in parameters)


def vision_token_ids(config: PretrainedConfig) -> tuple[int, ...]:
    """The ids that stand for images, videos and sounds in a prompt: never to be sampled, since a completion has
    nothing behind them."""
    ids = {value for name, value in config.to_dict().items() if _VISION_ID.fullmatch(name) and isinstance(value, int)}
    return tuple(sorted(ids))


def logits_head(model: PreTrainedModel) -> Callable[[Tensor], Tensor]:
    """Hidden states to logits: the output embeddings, with the cap that Gemma 2 and 4 put on what they give."""
    head: nn.Module = model.get_output_embeddings()
    cap: float | None = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    return head if cap is None else lambda hidden: torch.tanh(head(hidden) / cap) * cap


def vision_modules(model: PreTrainedModel) -> list[nn.Module]:
    """The vision tower and what projects its output, where the model has them."""
    return _children(model, _VISION_MODULES)


def audio_modules(model: PreTrainedModel) -> list[nn.Module]:
    """What makes tokens of sounds: never run, since prompts have none."""
    return _children(model, _AUDIO_MODULES)


def _children(model: PreTrainedModel, names: Sequence[str]) -> list[nn.Module]:
    return [module for name, module in model.base_model.named_children() if name in names]


def use_linear_patch_embedding(model: nn.Module) -> None:
    """Have convolutions over one patch each compute as the linear layers that they are; weights, names and results
    stay.

    A vision tower cuts its image into patches by a convolution whose stride is its kernel, and Qwen's are handed
    patches that are cut already: one output position each. As a convolution that is a slow case on a CPU, and for some
    versions of cuDNN on a GPU.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv3d) and module.stride == module.kernel_size and module.groups == 1:
            module.forward = partial(_embed, module)  # type: ignore[method-assign]


def _embed(convolution: nn.Conv3d, patches: Tensor) -> Tensor:
    """(patches, channels, *kernel) to (patches, out, 1, 1, 1); other shapes by the convolution itself."""
    if patches.shape[2:] != convolution.kernel_size:
        return nn.Conv3d.forward(convolution, patches)
    embedded = linear(patches.flatten(1), convolution.weight.flatten(1), convolution.bias)
    return embedded[..., None, None, None]
