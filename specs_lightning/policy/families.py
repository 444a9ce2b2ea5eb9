"""What differs between model families: positions, vision token ids, the vision tower, and the row layout.

A family is added by a line in `FAMILIES`. One that is not listed is trained on padded rows, which every model takes.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from specs_lightning.errors import SpecsError
from specs_lightning.groups import EncodedPrompt

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

log = logging.getLogger(__name__)

_VISION_ID = re.compile(r"(image|video)_token_(id|index)|vision_(start|end)_token_id|[be]oi_token_index")
_LOGIT_CHANGES = ("final_logit_softcapping", "logits_scaling", "logit_scale")
_VISION_MODULES = ("visual", "vision_tower", "vision_model", "multi_modal_projector", "connector")


class UnsupportedModel(SpecsError, ValueError):
    """A model that cannot be trained without being wrong."""


@dataclass(frozen=True)
class ModelFamily:
    """How a family of models is packed.

    Args:
        shared_prefix: whether its attention is causal over all of a row, as that over shared-prefix rows is.
        multimodal_rope: whether it takes four rows of positions (text, then M-RoPE's time, height and width).
        two_way_images: whether the tokens of an image see each other both ways, so that it must be told them.
    """

    shared_prefix: bool
    multimodal_rope: bool = False
    two_way_images: bool = False

    def token_types(self, config: PretrainedConfig, input_ids: Tensor) -> dict[str, Tensor]:
        """What the model must be told of its tokens beside their ids."""
        return {"token_type_ids": (input_ids == config.image_token_id).long()} if self.two_way_images else {}

    def positions(self, model: PreTrainedModel, prompt: EncodedPrompt) -> Tensor:
        """The position ids of a prompt, (1 or 4, P), computed once and kept with the prompt."""
        if prompt.position_ids is None:
            prompt.position_ids = self._positions(model, prompt)
        return prompt.position_ids

    def _positions(self, model: PreTrainedModel, prompt: EncodedPrompt) -> Tensor:
        text_P = torch.arange(len(prompt))
        if not self.multimodal_rope:
            return text_P[None]
        input_ids = prompt.input_ids.cpu()[None]
        grids = {name: prompt.vision[name].cpu() for name in prompt.vision if name.endswith("grid_thw")}
        if not grids:
            return text_P.expand(4, -1)
        token_types = (input_ids == model.config.image_token_id).int()
        position_3P, _ = model.base_model.get_rope_index(  # type: ignore[operator]
            input_ids, mm_token_type_ids=token_types, **grids
        )
        return torch.cat([text_P[None], position_3P[:, 0]])


_PLAIN = ModelFamily(shared_prefix=True)
_QWEN_VL = ModelFamily(shared_prefix=True, multimodal_rope=True)
_PADDED = ModelFamily(shared_prefix=False)
_GEMMA = ModelFamily(shared_prefix=False, two_way_images=True)

FAMILIES: dict[str, ModelFamily] = {
    "qwen2_vl": _QWEN_VL,
    "qwen2_5_vl": _QWEN_VL,
    "qwen3_vl": _QWEN_VL,
    "llava": _PLAIN,
    "llava_next": _PLAIN,
    "idefics3": _PLAIN,
    "smolvlm": _PLAIN,
    "internvl": _PLAIN,
    "gemma3": _GEMMA,
    "llama": _PLAIN,
    "qwen2": _PLAIN,
    "qwen3": _PLAIN,
}


def family_of(config: PretrainedConfig) -> ModelFamily:
    """The family of a model by its `model_type`; an unknown one is trained on padded rows, with a warning.

    Raises:
        UnsupportedModel: its logits are not its head's output alone, so that log-probabilities would be wrong.
    """
    text = config.get_text_config()
    if changed := [name for name in _LOGIT_CHANGES if getattr(text, name, None) not in (None, 1, 1.0)]:
        how = ", ".join(changed)
        raise UnsupportedModel(f"model type {config.model_type!r} changes its logits ({how}): unsupported")
    family = FAMILIES.get(config.model_type)
    if family is None:
        unknown = "model type %r is not known to take shared-prefix rows: training on padded rows (slower, same result)"
        log.warning(unknown, config.model_type)
        return _PADDED
    if family.shared_prefix and _has_windows(text):
        family = replace(family, shared_prefix=False)
    if not family.shared_prefix:
        log.warning("model type %r trains on padded rows: its attention cannot share a prompt", config.model_type)
    return family


def _has_windows(text: PretrainedConfig) -> bool:
    """Whether any layer looks back over a limited number of tokens."""
    kinds = getattr(text, "layer_types", None)
    if kinds is None:
        return getattr(text, "sliding_window", None) is not None
    return any(kind != "full_attention" for kind in kinds)


def vision_token_ids(config: PretrainedConfig) -> tuple[int, ...]:
    """The ids that stand for images in a prompt: never to be sampled, since a completion has no image behind them."""
    ids = {value for name, value in config.to_dict().items() if _VISION_ID.fullmatch(name) and isinstance(value, int)}
    return tuple(sorted(ids))


def vision_modules(model: PreTrainedModel) -> list[nn.Module]:
    """The vision tower and what projects its output, where the model has them."""
    return [module for name, module in model.base_model.named_children() if name in _VISION_MODULES]


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
