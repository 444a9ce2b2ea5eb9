"""A policy's weights as others take them: whole, merged, under the names of the model's files."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from specs_lightning.system.ranks import whole


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
