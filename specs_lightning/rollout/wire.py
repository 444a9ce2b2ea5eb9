"""What trainer and server say to each other: JSON, images as the bytes that the data set holds, in base64."""

from __future__ import annotations

import base64
from dataclasses import fields
from typing import Any

from specs_lightning.groups import image_bytes
from specs_lightning.rollout.sampler import SampleRequest
from specs_lightning.settings.nested import NOT_SET, changes, flatten

PROTOCOL = 2
"""Raised with every change that the other side would misunderstand."""
MAX_REQUEST_BYTES = 512 * 2**20

_FREE = ("architectures", "transformers_version", "dtype", "torch_dtype", "use_cache")
_FREE_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")  # each request says where completions end


def request_to_json(request: SampleRequest) -> dict[str, Any]:
    """Reads the images that are files."""
    encoded = [base64.b64encode(image_bytes(image)).decode("ascii") for image in request.images]
    return {each.name: getattr(request, each.name) for each in fields(request)} | {"images": encoded}


def request_from_json(message: dict[str, Any]) -> SampleRequest:
    template_ids, expanded_ids = tuple(message["template_ids"]), tuple(message["expanded_ids"])
    images = tuple(base64.b64decode(image, validate=True) for image in message["images"])
    return SampleRequest(message["prompt_id"], template_ids, expanded_ids, images, message["seed"])


def architecture(config: Any) -> dict[str, Any]:
    """What a model's configuration says of its computation, by dotted names: what weights alone do not tell."""
    values = flatten(config.to_dict())
    ends = {name: name.rpartition(".")[2] for name in values}
    decisive = (name for name, end in ends.items() if not end.startswith("_") and end not in _FREE + _FREE_TOKENS)
    return {name: _plain(values[name]) for name in decisive}


def differences(policy: dict[str, Any], server: dict[str, Any]) -> list[str]:
    """Where two architectures contradict each other; a setting that one side's transformers lacks does not count."""
    found = sorted(changes(policy, server))
    return [f"{name} is {mine}, not {its}" for name, mine, its in found if mine is not NOT_SET and its is not NOT_SET]


def _plain(value: Any) -> Any:
    """As JSON gives it back: lists for tuples, texts for what it does not know."""
    return value if isinstance(value, bool | int | float | None) else str(_listed(value))


def _listed(value: Any) -> Any:
    return [_listed(item) for item in value] if isinstance(value, list | tuple) else value
