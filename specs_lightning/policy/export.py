"""A policy's weights as others take them: whole, merged, under the names of the model's files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from specs_lightning.policy.loading import PolicySettings, empty_model
from specs_lightning.records.model_card import FILE as MODEL_CARD
from specs_lightning.system.files import atomic
from specs_lightning.system.ranks import failing_together, whole

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
    kept = model.state_dict().keys()
    for name, buffer in model.named_buffers():
        if name in kept:
            yield from in_files(model, name.replace(".base_layer.", "."), buffer)


def shapes(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Each weight without content, adapters left out; of a quantized one its state knows what it was."""
    for name, weight in model.named_parameters():
        if ".lora_" not in name:
            known: Any = getattr(weight, "quant_state", weight)
            yield name.replace(".base_layer.", "."), torch.empty(known.shape, dtype=known.dtype, device="meta")


def broken_weights(model: nn.Module) -> Iterator[str]:
    """The names of those that are NaN or infinite; of a sharded weight, this process's part is looked at."""
    for name, weight in model.named_parameters():
        mine = weight.to_local() if isinstance(weight, DTensor) else weight
        if not mine.isfinite().all():
            yield name


def merged(weight: Tensor, adapter: Any | None, dtype: torch.dtype | None = None) -> Tensor:
    """A weight with its layer's adapter merged in, if there is one; in another type, if one is given.

    All processes of a training must ask for a sharded one. It is gathered in the type that is wanted, or, to be merged,
    in its own.
    """
    own = _dense(weight)
    if adapter is None:
        return _gathered(own.to(dtype or own.dtype))
    return _with_adapter(_gathered(own), adapter).to(dtype or own.dtype)


def _dense(weight: Tensor) -> Tensor:
    """A weight, in full precision if it is quantized."""
    if (state := getattr(weight, "quant_state", None)) is None:
        return weight.detach()
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(weight.detach(), state)


def _gathered(weight: Tensor) -> Tensor:
    if isinstance(weight, DTensor):
        with failing_together():
            make_room([weight])
    return whole(weight)


def make_room(weights: Iterable[DTensor], dtype: torch.dtype | None = None) -> None:
    """Take the memory that sharded weights need as a whole, and give it back to whoever gathers them next.

    A process that has too little says so here, and not while the others wait for its shards.
    """
    _ = [torch.empty(w.shape, dtype=dtype or w.dtype, device=w.device_mesh.device_type) for w in weights]


def _with_adapter(weight: Tensor, layer: Any) -> Tensor:
    """The weight that alone does what a layer does with its adapter: W + s·BA, s being alpha / rank or its like.

    With DoRA each row of it has the length that was learned for it (arXiv 2402.09353, equation 5).
    """
    (adapter,) = layer.active_adapters
    down, up = (_gathered(matrix[adapter].weight.detach()) for matrix in (layer.lora_A, layer.lora_B))
    change: Tensor = (up @ down) * layer.scaling[adapter]
    if adapter not in layer.lora_magnitude_vector:
        return weight + change.to(weight)
    moved = weight.to(change) + change
    lengths = _gathered(layer.lora_magnitude_vector[adapter].weight.detach())
    scaled: Tensor = moved * (lengths / torch.linalg.norm(moved, dim=1))[:, None]
    return scaled.to(weight)


def adapter_weights(model: PreTrainedModel) -> dict[str, Tensor]:
    """The adapters of a model by the names of PEFT's files; gathered, for which all processes must call it."""
    from peft import get_peft_model_state_dict  # slow to import, and for adapters alone

    own = {name: _gathered(weight.detach()) for name, weight in model.named_parameters() if ".lora_" in name}
    named = get_peft_model_state_dict(model, own, save_embedding_layers=False)  # "auto" would ask the hub
    return {f"base_model.model.{name}": weight.cpu().contiguous() for name, weight in named.items()}


def plain_model(model: PreTrainedModel, source: str, settings: PolicySettings) -> PreTrainedModel:
    """One whose files are plain ones: of a quantized model one of its configuration, without weights."""
    if settings.quantization is None:
        return model
    config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False)
    plain = empty_model(config, replace(settings, lora=None, quantization=None))
    plain.generation_config = model.generation_config
    return plain


def write_model(
    model: PreTrainedModel, weights: dict[str, Tensor], processor: Any, card: str | None, folder: Path
) -> None:
    """A plain folder of a model with these weights, its processor and a model card, if there is one; it appears whole
    or not at all."""
    with atomic(folder) as partial:
        model.save_pretrained(partial, state_dict=weights, save_original_format=False)
        processor.save_pretrained(partial)
        if card is not None:
            (partial / MODEL_CARD).write_text(card, encoding="utf-8")
        readable = (partial / "config.json").stat().st_mode  # safetensors lets its owner alone read a file
        for file in partial.iterdir():
            file.chmod(readable)


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
