"""`specs init`: a project that trains at once, to be changed part by part."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from specs_lightning.errors import SpecsError
from specs_lightning.prompts.images import png
from specs_lightning.system.files import atomic
from specs_lightning.system.terminal import pasted, say
from specs_lightning.toy import scenes

TEMPLATE = Path(__file__).parent / "project"
DATA = {"train": (2, 200), "held_out": (3, 60)}
"""Seed and size of each file of questions."""


def init(folder: str) -> Path:
    """Write a project: settings of the whole method, a reward and a callback to change, and small data to begin with.

    Args:
        folder: where; it must not be there, or be empty.

    Returns:
        the folder.

    Raises:
        SpecsError: something is there.
    """
    place = Path(folder)
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise SpecsError(f"{place} is not empty: name a folder that is not there yet")
    with atomic(place) as partial:
        shutil.copytree(TEMPLATE, partial, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        for name, (seed, size) in DATA.items():
            _write_questions(partial / "data", name, seed, size)
    say(f"{place} is ready. Next:\n  {pasted('cd', place)}\n  specs run --config specs.yaml")
    return place


def _write_questions(folder: Path, name: str, seed: int, size: int) -> None:
    """A JSON line a question, and its image beside the file."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for i, (image, question) in enumerate(scenes.examples(seed, size)):
        file = f"images/{name}-{i}.png"
        (folder / file).write_bytes(png(image))
        row: dict[str, object] = {"id": f"{name}-{i}", "image": file, "question": question.text}
        row |= {"answer": question.answer, "answer_type": question.answer_type, "choices": question.choices}
        rows.append(json.dumps({column: value for column, value in row.items() if value}) + "\n")
    (folder / f"{name}.jsonl").write_text("".join(rows))
