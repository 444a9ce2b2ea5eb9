"""The policy: a vision-language model, the log-probabilities it gives to completions, and how it is saved."""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from specs_lightning.errors import SpecsError
from specs_lightning.families import family_of, vision_modules, vision_token_ids
from specs_lightning.groups import GroupBatch
from specs_lightning.shared_prefix import pack_rows
from specs_lightning.token_logprobs import TokenLogprobs, token_logprobs
from specs_lightning.toy import resolve


class ModelNotFound(SpecsError, FileNotFoundError):
    """No model where the settings say."""


log = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class PolicySettings:
    """Which model is trained, and which of its parts."""

    model: str
    """A Hugging Face folder or model name; `toy:base` is the tiny model that comes with the package."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """The type that weights are kept in. For reduced precision during training, set the trainer's `precision`."""
    attention: str = "sdpa"
    """The attention implementation of transformers. Any other than `sdpa` runs on padded rows."""
    freeze_vision: bool = True
    """Leave the vision tower and its projector as they are."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    shared_prefix: bool = True
    """Run a prompt once for all its completions. `false` runs it once for each: slower, the same result."""


class Policy(nn.Module):
    """A model, its processor, and the log-probabilities of completions.

    Its distribution leaves out the vision token ids: no engine ever samples them (a completion has no image behind
    such a token), so counting their probability here would make trainer and engine disagree.

    Args:
        settings: the model's place and what is trained of it.

    Raises:
        ModelNotFound: the model's folder does not exist.
    """

    def __init__(self, settings: PolicySettings) -> None:
        super().__init__()
        self.settings = settings
        self.version = 0
        """Counts the changes of the weights; completions carry the version that made them."""
        self.source = model_source(settings.model)
        self.model: PreTrainedModel = AutoModelForImageTextToText.from_pretrained(
            self.source,
            dtype=DTYPES[settings.dtype],
            attn_implementation=settings.attention,
            use_safetensors=True,
        )
        self.processor: Any = AutoProcessor.from_pretrained(self.source)
        self.tokenizer = self.processor.tokenizer
        self.family = family_of(self.model.config)
        self.shared_prefix = self._may_share_prefix()
        """Whether a row holds a prompt once for several completions."""
        self.banned_ids: Tensor
        self.register_buffer(
            "banned_ids", torch.tensor(vision_token_ids(self.model.config), dtype=torch.long), persistent=False
        )
        if settings.freeze_vision:
            for module in vision_modules(self.model):
                module.requires_grad_(False)
        if settings.gradient_checkpointing:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        layers = (layer for layer in self.model.modules() if isinstance(layer, GradientCheckpointingLayer))
        self._checkpointed = list(layers) if settings.gradient_checkpointing else []
        self.eval()

    def _may_share_prefix(self) -> bool:
        if not (self.family.shared_prefix and self.settings.shared_prefix):
            return False
        if self.settings.attention != "sdpa":
            # The others misread a mask of true and false, without an error.
            log.warning("attention %r trains on padded rows: only sdpa takes the mask", self.settings.attention)
            return False
        return True

    def train(self, mode: bool = True) -> Policy:
        """Stay in evaluation mode, whatever is asked for: dropout would make trainer and engine disagree."""
        super().train(False)
        return self

    @property
    def device(self) -> torch.device:
        return self.banned_ids.device

    def token_logprobs(self, batch: GroupBatch, temperature: float = 1.0, with_entropy: bool = False) -> TokenLogprobs:
        """The log-probability of each token that the batch's mask marks, zero elsewhere.

        Args:
            batch: on the policy's device.
            temperature: at which the completions were sampled.
            with_entropy: also the entropy of each token's distribution, without gradient.

        Returns:
            (N, T) float32 tensors, in nats.
        """
        for layer in self._checkpointed:  # transformers recomputes activations in training mode alone
            layer.training = torch.is_grad_enabled()
        rows = pack_rows(
            batch,
            lambda prompt: self.family.positions(self.model, prompt),
            shared_prefix=self.shared_prefix,
            pad_id=self.tokenizer.pad_token_id or 0,
        )
        hidden_RLH = self.model.base_model(
            input_ids=rows.input_ids_RL,
            attention_mask=rows.attention_mask,
            position_ids=rows.position_ids,
            use_cache=False,
            **rows.vision,
        ).last_hidden_state
        scored = token_logprobs(
            hidden_RLH.flatten(0, 1)[rows.predictors_M],
            rows.targets_M,
            self.model.get_output_embeddings(),
            temperature=temperature,
            banned_ids=self.banned_ids,
            with_entropy=with_entropy,
        )

        def spread(values_M: Tensor) -> Tensor:
            return values_M.new_zeros(batch.mask_NT.shape).masked_scatter(batch.mask_NT, values_M)

        return TokenLogprobs(spread(scored.logprobs), None if scored.entropy is None else spread(scored.entropy))

    forward = token_logprobs

    def save(self, folder: Path | str) -> Path:
        """Write a plain Hugging Face folder: weights, processor, chat template and generation config.

        The folder appears whole or not at all.
        """
        folder = Path(folder)
        partial, replaced = (folder.with_name(folder.name + ending) for ending in (".partial", ".replaced"))
        for leftover in (partial, replaced):
            shutil.rmtree(leftover, ignore_errors=True)
        self.model.save_pretrained(partial)
        self.processor.save_pretrained(partial)
        if folder.exists():
            folder.rename(replaced)  # renamed rather than deleted: a half-deleted folder would look like a model
        partial.rename(folder)
        shutil.rmtree(replaced, ignore_errors=True)
        return folder


def model_source(model: str) -> str:
    """The folder or hub name behind a `model` setting."""
    source = os.path.expanduser(resolve(model))
    looks_local = source.startswith((".", "/")) or source.count("/") > 1
    if looks_local and not (Path(source) / "config.json").is_file():
        raise ModelNotFound(
            f"{source} is no model folder: it has no config.json. Give a folder written by save_pretrained, "
            "the name of a model on the hub, or toy:base."
        )
    return source
