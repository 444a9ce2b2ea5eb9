"""What the cells of a row hold, in the ways in which files hold it. Each `ValueError` is `kind: details` of the row."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from specs_lightning.data.schemas import listed
from specs_lightning.groups import Image
from specs_lightning.prompts.images import BadImage, read_source
from specs_lightning.scoring.golds import bare_gold
from specs_lightning.scoring.quantities import read_quantity

_NO_IMAGE: dict[str, None] = {"bytes": None, "path": None}
_NUMBERED_IMAGE = re.compile(r"image_(\d+)")
_SURROGATE = re.compile("[\ud800-\udfff]")


def is_missing(value: Any) -> bool:
    """Whether a cell is empty. A number that is missing comes out of pandas as NaN, which differs from itself."""
    return value is None or (isinstance(value, str | bytes) and not value) or bool(value != value)


def nested(values: Any, column: str) -> Any:
    """What a dotted name leads to; `None` where it leads nowhere."""
    for key in column.split("."):
        values = values.get(key) if isinstance(values, dict) else None
    return values


def refuse_surrogates(row: Mapping[str, Any]) -> None:
    """`ValueError` of a row with half a character (a lone surrogate) in a text, which no tokenizer takes."""
    for name, value in row.items():
        if _has_surrogate(value):
            raise ValueError(f"half a character (a lone surrogate) in the text: in {name!r}")


def refuse_other_media(row: Mapping[str, Any]) -> None:
    """`ValueError` of a row without images that has a video or a sound in a column: its question is about that."""
    for name in ("video", "videos", "audio", "audios"):
        if row.get(name):
            raise ValueError(f"{name.removesuffix('s')}, only images are read: in {name!r}")


def _has_surrogate(value: Any) -> bool:
    if isinstance(value, str):
        return not value.isascii() and _SURROGATE.search(value) is not None
    if isinstance(value, dict):
        return any(map(_has_surrogate, value.values()))
    return isinstance(value, list) and any(map(_has_surrogate, value))


def read_gold(value: Any, unit: str | None = None, bare: bool = True) -> str:
    """The gold answer as text, with its unit; `bare`, out of what data sets wrap it in (`bare_gold`)."""
    if value is not None and not isinstance(value, str | int | float):
        raise ValueError(f"gold answer is not text or a number: {type(value).__name__}")
    answer = "" if is_missing(value) else str(value).strip()
    if not answer:
        raise ValueError("empty gold answer")
    return _with_unit(bare_gold(answer) if bare else answer, unit)


def _with_unit(answer: str, unit: str | None) -> str:
    """A number with its unit, so that an answer in another unit is converted; anything else as it is."""
    if unit is None or read_quantity(answer) is None:
        return answer
    return together if read_quantity(together := f"{answer} {unit}") is not None else answer


def read_precision(value: Any) -> int | None:
    """The decimal places that count; `None` where the row does not say."""
    if is_missing(value):
        return None
    try:
        places = float(value)
    except (TypeError, ValueError):
        places = -1.0
    if not 0 <= places <= 12 or places != int(places):
        raise ValueError(f"precision is no number of decimal places: {value!r}")
    return int(places)


def image_cells(value: Any) -> tuple[list[Any], bool]:
    """The images in a cell as the file holds them, and whether it has room for a single one only."""
    if isinstance(value, str) and value.startswith("["):
        value = listed(value)
    if isinstance(value, list):
        return ([] if all(map(_is_no_image, value)) else value), False
    return ([] if _is_no_image(value) else [value]), True


def numbered_images(row: Mapping[str, Any]) -> list[Any]:
    """What one column an image holds, as in MMMU: image_1, image_2, …"""
    numbered = {int(match[1]): name for name in row if (match := _NUMBERED_IMAGE.fullmatch(name))}
    values = [row[numbered[number]] for number in sorted(numbered)]
    return [value for value in values if not _is_no_image(value)]


def plain_values(row: Mapping[str, Any]) -> dict[str, Any]:
    """Those that are worth keeping beside a prompt: what JSON can hold, and no images or empty cells."""
    kept = {name: value for name, value in row.items() if value is not None and _is_plain(value)}
    return {name: value for name, value in kept.items() if not _NUMBERED_IMAGE.fullmatch(name)}


def _is_plain(value: Any) -> bool:
    """Whether JSON can hold it."""
    if isinstance(value, list):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(inner) for key, inner in value.items())
    return value is None or isinstance(value, str | int | float | bool)


def read_image(value: Any, root: Path) -> Image:
    """An image as a cell may hold it: a path, the bytes, base64, or what `datasets` writes; not decoded."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if not isinstance(value, str | bytes) or not value:
        raise BadImage(f"image is neither a path nor bytes: {type(value).__name__}")
    image = read_source(value, root) if isinstance(value, str) else value
    if isinstance(image, Path):
        try:
            there = image.is_file()
        except OSError as error:  # a folder that may not be entered
            raise BadImage(f"unreadable image file: {image} ({error.strerror})") from error
        if not there:
            raise BadImage(f"missing image file: {image}")
    return image


def _is_no_image(value: Any) -> bool:
    return is_missing(value) or value == _NO_IMAGE
