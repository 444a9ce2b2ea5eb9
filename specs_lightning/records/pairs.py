"""Preference pairs on disk, in the conversational format that TRL and others read unchanged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from specs_lightning.groups import Prompt, image_bytes
from specs_lightning.system.files import atomic


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """A prompt, the response to move towards and the one to move away from, and where they came from.

    Without the latter it is a demonstration.
    """

    prompt: Prompt
    chosen: str
    rejected: str | None
    provenance: dict[str, Any] = field(default_factory=dict)


def write_pairs(pairs: Sequence[PreferencePair], file: Path) -> None:
    """Write pairs as parquet: `prompt, chosen, rejected` (chat messages), `images`, `id`, `answer`, `provenance`.

    The file appears whole or not at all.
    """
    from datasets import Dataset, List
    from datasets import Image as ImageFeature

    rows = [
        {
            "id": pair.prompt.id,
            "prompt": list(pair.prompt.messages),
            "chosen": _message(pair.chosen),
            "rejected": None if pair.rejected is None else _message(pair.rejected),
            "images": [{"bytes": image_bytes(image), "path": None} for image in pair.prompt.images],
            "answer": pair.prompt.answer,
            "answer_type": pair.prompt.answer_type,
            "answer_format": pair.prompt.answer_format,
            "provenance": pair.provenance or None,  # parquet has no empty structs
        }
        for pair in pairs
    ]
    with atomic(file) as partial:
        Dataset.from_list(rows).cast_column("images", List(ImageFeature())).to_parquet(partial)


def _message(text: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": [{"type": "text", "text": text}]}]
