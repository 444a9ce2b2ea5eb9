"""Other texts, images and weights under the same ids and names, in the folders that `small_runs` writes."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from helpers.small_runs import scene_pairs
from safetensors.torch import load_file, save_file

from specs_lightning.records.pairs import write_pairs


def other_pair(**parts: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        first, *others = scene_pairs()
        write_pairs([replace(first, **parts), *others], folder / "pairs.parquet")

    return change


def other_row(**values: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "prompts.jsonl"
        first, *others = map(json.loads, file.read_text().splitlines())
        file.write_text("".join(json.dumps(row) + "\n" for row in [{**first, **values}, *others]))

    return change


def other_image(folder: Path) -> None:
    shutil.copy(folder / "1.png", folder / "0.png")


def other_image_of_a_pair(folder: Path) -> None:
    first, *others = scene_pairs()
    prompt = replace(first.prompt, images=scene_pairs()[3].prompt.images)
    write_pairs([replace(first, prompt=prompt), *others], folder / "pairs.parquet")


def as_before_digests(checkpoint: Path, kind: str) -> None:
    """As the first versions of the package wrote it: of data it knows the ids, of models nothing."""
    state = torch.load(checkpoint, weights_only=True)
    loader = state["loops"]["fit_loop"]["state_dict"]["combined_loader"][0]
    del state["step_loop"]["models"], loader["content"]
    ids = "\n".join(f"{'q' if kind == 'pairs' else 'p'}{number}" for number in range(8))
    loader[kind] = hashlib.sha256(ids.encode()).hexdigest()[:16]
    torch.save(state, checkpoint)


def other_weights(model: Path) -> None:
    """Of the same shapes, in a file of the same size."""
    weights = load_file(model / "model.safetensors")
    weights = {name: weight * 1.01 for name, weight in weights.items()}
    save_file(weights, model / "model.safetensors", {"format": "pt"})
