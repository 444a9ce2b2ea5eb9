"""A policy's weights as others take them: whole, merged, under the names of the model's files."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor


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
    return (up @ down) * layer.scaling[adapter]


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor gathered from all ranks; any other as it is."""
    if not isinstance(tensor, DTensor):
        return tensor
    on_device: Any = tensor.to(tensor.device_mesh.device_type)  # it may be offloaded to the CPU
    return on_device.full_tensor()
