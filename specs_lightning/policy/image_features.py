"""What a frozen vision tower makes of images: computed once, and kept for as long as there is room.

A prompt's images are otherwise run anew by whatever reads the prompt: sampling, old and reference log-probabilities,
each micro-batch with a part of its group, and every further epoch.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from specs_lightning.groups import EncodedPrompt
from specs_lightning.policy.families import vision_modules

if TYPE_CHECKING:  # slow to import
    from transformers import PreTrainedModel
    from transformers.modeling_outputs import BaseModelOutputWithPooling as Features

MAX_BYTES = 2**28
"""Of all that is kept: features of some 28 images of a megapixel for a model of 7B parameters in bfloat16."""


class NotFrozen(Exception):
    """Features that depend on weights that are trained."""


class ImageFeatures:
    """The features of prompts' images, for a model whose vision tower is not trained.

    They are those of the tower's weights as they are, in the type that autocast has them computed in: after a change of
    either they are computed anew.

    Args:
        model: with a vision tower, whole on its device; its forward pass takes features (`features_of`).
        max_bytes: what is kept; the least lately used goes first.
    """

    def __init__(self, model: PreTrainedModel, max_bytes: int = MAX_BYTES) -> None:
        self._weights = [weight for module in vision_modules(model) for weight in module.parameters()]
        base: Any = model.base_model
        self._get = base.get_image_features
        self._taken = frozenset(inspect.signature(self._get).parameters)
        self.max_bytes = max_bytes
        self.bytes = 0
        self._kept: OrderedDict[Hashable, tuple[Features, int]] = OrderedDict()

    def of(self, prompts: Sequence[EncodedPrompt]) -> Features | None:
        """Of the images of these prompts, one after the other; None where none has an image.

        Raises:
            NotFrozen: a gradient would be lost, such as that of LLaVA-NeXT's `image_newline`, which is in no tower.
        """
        state = self._state()
        features = [self._of(prompt, state) for prompt in prompts if prompt.vision]
        return joined(features) if features else None

    def _of(self, prompt: EncodedPrompt, state: Hashable) -> Features:
        if prompt.prompt is None:  # nothing says which images these are
            return self._compute(prompt)
        key = prompt.prompt.images, state
        if key not in self._kept:
            features = self._compute(prompt)
            self._kept[key] = features, size(features)
            self.bytes += size(features)
        self._kept.move_to_end(key)
        features, _ = self._kept[key]
        while self.bytes > self.max_bytes and len(self._kept) > 1:
            _, (_, freed) = self._kept.popitem(last=False)
            self.bytes -= freed
        return features

    def _state(self) -> Hashable:
        """Changes with the tower's weights, in place or not, and with the type that they are used in."""
        device = self._weights[0].device.type
        used_in = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self._weights[0].dtype
        return used_in, hash(tuple((weight.data_ptr(), weight._version) for weight in self._weights))

    @torch.enable_grad()  # by which one sees what is trained
    def _compute(self, prompt: EncodedPrompt) -> Features:
        device = self._weights[0].device
        tensors = {name: tensor.to(device) for name, tensor in prompt.vision.items() if name in self._taken}
        found = self._get(**tensors, return_dict=True)
        if any(tensor.requires_grad for name in _names(found) for tensor in _tensors(getattr(found, name))):
            raise NotFrozen
        return _with(found, {name: getattr(found, name) for name in _names(found)})


def features_of(model: PreTrainedModel) -> ImageFeatures | None:
    """Those of a model that takes them in place of images; None of any other."""
    base: Any = model.base_model
    takes = hasattr(base, "get_image_features") and "mm_encoder_outputs" in inspect.signature(base.forward).parameters
    return ImageFeatures(model) if takes and vision_modules(model) else None


def joined(features: Sequence[Features]) -> Features:
    """Those of several prompts as one model call takes them."""
    return _with(features[0], {name: _join(name, [getattr(f, name) for f in features]) for name in _names(features[0])})


def _join(name: str, values: Sequence[Any]) -> Any:
    if isinstance(values[0], Tensor):
        return torch.cat(list(values))
    if name == "deepstack_features":  # for each layer, what it has of each image
        return [_join("", of_layer) for of_layer in zip(*values, strict=True)]
    return tuple(chain(*values))


def size(features: Features) -> int:
    """Bytes."""
    return sum(tensor.nbytes for name in _names(features) for tensor in _tensors(getattr(features, name)))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    else:
        yield from chain.from_iterable(map(_tensors, value))


def _names(features: Features) -> list[str]:
    """Those of its parts that a language model takes."""
    names = ("pooler_output", "deepstack_features")
    return [name for name in names if getattr(features, name, None) is not None]


def _with(features: Features, values: dict[str, Any]) -> Features:
    return type(features)(**values)
