"""A policy's weights as others take them: whole, merged, under the names of the model's files."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from specs_lightning.policy.loading import PolicySettings
from specs_lightning.system.files import atomic
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


def saved_buffers(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """What belongs to a model's files and is never trained (how GLM's experts are balanced, Gemma 4's scales)."""
    trained = dict(model.named_parameters())
    for name, tensor in model.state_dict().items():
        if name not in trained and "quant" not in name:
            yield from in_files(model, name, tensor)


def _dense(weight: Tensor) -> Tensor:
    """A weight, in full precision if it is quantized."""
    if (state := getattr(weight, "quant_state", None)) is None:
        return weight.detach()
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(weight.detach(), state)


def _with_adapter(weight: Tensor, layer: Any) -> Tensor:
    """The weight that alone does what a layer does with its adapter: W + s·BA, s being alpha / rank or its like.

    With DoRA each row of it has the length that was learned for it (arXiv 2402.09353, equation 5).
    """
    (adapter,) = layer.active_adapters
    down, up = (whole(matrix[adapter].weight.detach()) for matrix in (layer.lora_A, layer.lora_B))
    change: Tensor = (up @ down) * layer.scaling[adapter]
    if adapter not in layer.lora_magnitude_vector:
        return weight + change.to(weight)
    moved = weight.to(change) + change
    lengths = whole(layer.lora_magnitude_vector[adapter].weight.detach())
    scaled: Tensor = moved * (lengths / torch.linalg.norm(moved, dim=1))[:, None]
    return scaled.to(weight)


def adapter_weights(model: PreTrainedModel) -> dict[str, Tensor]:
    """The adapters of a model by the names of PEFT's files; gathered, for which all processes must call it."""
    from peft import get_peft_model_state_dict  # slow to import, and for adapters alone

    own = {name: whole(weight.detach()) for name, weight in model.named_parameters() if ".lora_" in name}
    named = get_peft_model_state_dict(model, own, save_embedding_layers=False)  # "auto" would ask the hub
    return {f"base_model.model.{name}": weight.cpu().contiguous() for name, weight in named.items()}


def write_adapter(
    model: PreTrainedModel, weights: dict[str, Tensor], settings: PolicySettings, source: str, folder: Path
) -> None:
    """A folder that `PeftModel.from_pretrained` puts beside the model that it was trained beside, in `source`; it
    appears whole or not at all."""
    config: Any = copy(model.peft_config["default"])
    config.base_model_name_or_path = source if settings.revision is None else settings.model
    config.revision, config.task_type, config.inference_mode = settings.revision, "CAUSAL_LM", True
    with atomic(folder) as partial:
        config.save_pretrained(str(partial))
        save_file(weights, partial / "adapter_model.safetensors", metadata={"format": "pt"})
        readable = (partial / "adapter_config.json").stat().st_mode
        (partial / "adapter_model.safetensors").chmod(readable)
