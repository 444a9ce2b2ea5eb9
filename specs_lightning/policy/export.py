"""A policy's weights as others take them: whole, merged, under the names of the model's files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import Tensor

from specs_lightning.system.ranks import whole

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TRANSPOSED = {"qwen3_vl_moe": (".mlp.experts.gate_up_proj", ".mlp.experts.down_proj")}
"""Weights that the published files have with their last two axes exchanged, by model type. transformers reads either
form and writes its own, which others do not read."""


def in_files(model: PreTrainedModel, name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
    """A weight as the files have it that the model was read from: on reading, transformers renames and merges."""
    from transformers.core_model_loading import revert_weight_conversion  # slow to import

    for own_name, own_weight in revert_weight_conversion(model, {name: weight}).items():
        exchanged = own_name.endswith(_TRANSPOSED.get(model.config.model_type, ()))
        yield own_name, own_weight.transpose(1, 2).contiguous() if exchanged else own_weight


def _dense(weight: Tensor) -> Tensor:
    """A weight, in full precision if it is quantized."""
    if (state := getattr(weight, "quant_state", None)) is None:
        return weight.detach()
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(weight.detach(), state)


def _adapter_change(layer: Any) -> Tensor:
    """What the adapter adds to its layer's weight."""
    (adapter,) = layer.active_adapters
    down, up = (whole(matrix[adapter].weight.detach()) for matrix in (layer.lora_A, layer.lora_B))
    change: Tensor = (up @ down) * layer.scaling[adapter]
    return change
