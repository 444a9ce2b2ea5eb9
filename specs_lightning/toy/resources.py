"""`toy:NAME` in place of a path: the base model, which comes with the package, or what is written on first use."""

from __future__ import annotations

from pathlib import Path

from specs_lightning.system.digests import content_digest
from specs_lightning.system.files import cache_folder
from specs_lightning.toy import scenes, teacher

PREFIX = "toy:"


def resolve(path: str | Path) -> Path | str:
    """The path behind `toy:NAME`; any other path as it is.

    `toy:base` is the model that comes with the package. Others are in the cache folder (`$SPECS_CACHE`, or
    `~/.cache/specs-lightning`), written when they are not there yet: a parquet file for each name in
    `scenes.DATA_SETS`, and for the teacher (`teacher.py`) the model `toy:deep`, made of this base, and `toy:lessons`.
    """
    text = str(path)
    if not text.startswith(PREFIX):
        return path
    name = text.removeprefix(PREFIX)
    base = Path(__file__).parent / "base_model"
    if name == "base":
        return base
    known = (*scenes.DATA_SETS, "deep", "lessons")
    if name not in known:
        raise ValueError(f"unknown toy resource {text!r}; there are: toy:base, toy:" + ", toy:".join(known))
    cache = cache_folder() / f"toy-v{scenes.VERSION}"
    place = cache / (f"deep-{content_digest(base)[:8]}" if name == "deep" else f"{name}.parquet")
    if not place.exists():
        if name in scenes.DATA_SETS:
            scenes.write_data_set(name, place)
        elif name == "deep":
            teacher.write_deeper(base, place)
        else:
            teacher.write_lessons(place)
    return place
