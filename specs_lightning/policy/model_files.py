"""Where a model lies, and what is wrong with its files where they cannot be used: named, with what to do."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError

from specs_lightning.errors import SpecsError
from specs_lightning.records.model_card import FILE as MODEL_CARD
from specs_lightning.system.digests import content_digest
from specs_lightning.toy import resolve

log = logging.getLogger(__name__)

MODEL_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.tiktoken"]
"""What of a model on the hub is taken: configurations, weights and vocabularies, no code."""


class ModelNotFound(SpecsError, FileNotFoundError):
    """No model where the settings say."""


class BadModel(SpecsError, ValueError):
    """A model whose files cannot be used."""


_AT = "@"
"""Between a hub name, which has none in it, and a revision."""


def at_revision(model: str, revision: str | None) -> str:
    """`NAME@REVISION`, which every setting takes that names a model.

    Raises:
        ValueError: the model is a folder, which has no revisions.
    """
    if revision is None:
        return model
    if _looks_local(os.path.expanduser(resolve(model))):
        raise ValueError(f"revision {revision} is of a model on the hub, and {model} is a folder: leave it out")
    return f"{model}{_AT}{revision}"


def model_source(model: str) -> str:
    """The folder or hub name behind a `model` setting; of a hub name at a revision, the folder that it is stored in.

    Raises:
        ModelNotFound: it is a path, and no model's folder is there.
        BadModel: the hub has no such revision, or is not reached.
    """
    source = os.path.expanduser(resolve(model))
    if _looks_local(source):
        place = Path(source)
        if not (place / "config.json").is_file():
            raise ModelNotFound(
                f"{source} is no model folder: {_what_is_there(place)} Give a folder written by save_pretrained, "
                "the name of a model on the hub, or toy:base."
            )
        return source
    name, at, revision = source.partition(_AT)
    return _snapshot(name, revision) if at else source


def _looks_local(source: str) -> bool:
    name = source.partition(_AT)[0]
    return source.startswith((".", "/")) or name.count("/") > 1 or Path(source).exists()


@cache
def _snapshot(name: str, revision: str) -> str:
    """The folder of a model of the hub at a revision, downloaded if it is not there; it is called by its commit."""
    from huggingface_hub import snapshot_download

    with usable(name, "configuration"):
        folder = snapshot_download(name, revision=revision, allow_patterns=MODEL_FILES)
    log.info("%s at %s is commit %s", name, revision, Path(folder).name)
    return folder


def model_digest(model: str) -> str:
    """What a model is: the content of its folder, or its name on the hub and the revision that it has there.

    Raises:
        ModelNotFound, BadModel: there is none.
    """
    if (place := Path(os.path.expanduser(resolve(model)))).is_dir():
        return content_digest(place, without=[MODEL_CARD])
    source = model_source(model)
    if _AT in model:
        return f"{model.partition(_AT)[0]}{_AT}{Path(source).name}"
    with usable(source, "configuration"):
        return f"{source}@{transformers.AutoConfig.from_pretrained(source, trust_remote_code=False)._commit_hash}"


def same_model(digest: str, other: str) -> bool | None:
    """Whether two `model_digest`s are of one model; None where it cannot be told: a folder, and a name on the hub."""
    return None if ("@" in digest) != ("@" in other) else digest == other


ADAPTER = "-adapter"


def adapter_beside(folder: Path) -> Path:
    """Where the adapters of a merged model lie by themselves."""
    return folder.with_name(folder.name + ADAPTER)


def _what_is_there(place: Path) -> str:
    if place.is_file():
        return f"it is a file. The folder that it lies in is {place.parent}."
    if not place.is_dir():
        return "nothing is there."
    merged = place.with_name(place.name.removesuffix(ADAPTER))
    if merged != place and (merged / "config.json").is_file():
        return f"it has no config.json, but a LoRA adapter. Merged into its model, it is {merged}."
    if (place / "adapter_config.json").is_file():
        return (
            "it has no config.json, but a LoRA adapter. Merge it into its model first (peft: load the model with the "
            "adapter, merge_and_unload(), save_pretrained()); `specs fit` exports merged models."
        )
    if (place / "model" / "config.json").is_file():
        return f"it has no config.json. The model of this training is {place / 'model'}."
    names = ", ".join(sorted(path.name for path in place.iterdir())[:5])
    return f"it has no config.json. It holds {names}." if names else "it has no config.json. It is empty."


@contextmanager
def usable(source: str, part: str) -> Iterator[None]:
    """Say of which model's files (a folder's or hub name's), and what to do, where transformers cannot use them.

    Raises:
        BadModel: it cannot be read.
    """
    try:
        yield
    except (SpecsError, torch.OutOfMemoryError):
        raise
    except (OSError, ValueError, RuntimeError, KeyError, AttributeError, SafetensorError) as error:
        said = " ".join(str(error).split())
        not_here = (
            f"{source} is no folder here, so it is looked for on the hub: check the name and the network "
            "(HF_HUB_OFFLINE forbids it), download it first, or give a folder"
        )
        remedy = REMEDIES[part] if Path(source).is_dir() else not_here
        raise BadModel(f"the {part} of {source} cannot be used: {said[:300]}. What to do: {remedy}") from error


REMEDIES = {
    "configuration": "copy config.json again from the model that it was made of; a model type that transformers does "
    "not know needs a newer transformers (code that comes with a model is never run)",
    "weights": "copy or download them again: safetensors files that fit config.json (other forms: load and "
    "save_pretrained() once)",
    "processor": "copy tokenizer, image processor and chat template from the model that it was made of",
}


def check_loaded(source: str, missing: Collection[str], misshapen: Collection[tuple[Any, ...]]) -> None:
    """That no weight was made up.

    Raises:
        BadModel: weights are missing in the files, or misshapen: their shapes there are not the model's.
    """
    wrong = [f"{name} is in none of its files" for name in sorted(missing)]
    wrong += [f"{name} is {tuple(found)}, not {tuple(wanted)}" for name, found, wanted in sorted(misshapen, key=str)]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise BadModel(
            f"the weights of {source} do not fit config.json: {'; '.join(wrong[:3])}{more}. What to do: "
            f"{REMEDIES['weights']}"
        )
