"""Bounding boxes: how much two overlap, and whether an answer finds the objects that the gold answer has.

The paper says no more than that Orsta's detection rows use an IoU verifier. Here an answer is right where its mean IoU
over the objects is at least `LEAST_IOU`: a box counts for one gold box of the same label, a gold box that is not found
and a box too many count as 0.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Box = Sequence[float]
"""Left, top, right, bottom."""
LEAST_IOU = 0.5
MOST_BOXES = 500
"""A longer answer is no detection, but an attempt to hit by chance."""


@dataclass(frozen=True)
class Found:
    """An object in an image."""

    label: str
    box: tuple[float, ...]


def iou(one: Box, other: Box) -> float:
    """Intersection over union."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(0.0, width) * max(0.0, height)
    together = _area(one) + _area(other) - shared
    return shared / together if together > 0 else 0.0


def mean_iou(found: Sequence[Found], gold: Sequence[Found]) -> float:
    """The mean over the objects, the pairs of highest IoU first."""
    pairs = [
        (overlap, i, j)
        for i, one in enumerate(found)
        for j, right in enumerate(gold)
        if one.label == right.label and (overlap := iou(one.box, right.box)) > 0
    ]
    total = 0.0
    free_found, free_gold = set(range(len(found))), set(range(len(gold)))
    for overlap, i, j in sorted(pairs, reverse=True):
        if i in free_found and j in free_gold:
            total += overlap
            free_found.remove(i)
            free_gold.remove(j)
    return total / max(len(found), len(gold)) if found and gold else 0.0


def finds_objects(answer: str, gold: str) -> bool:
    """Whether an answer's boxes are the gold's. The gold answer must be readable."""
    return mean_iou(read_boxes(answer) or [], read_boxes(gold) or []) >= LEAST_IOU


def read_boxes(text: str) -> list[Found] | None:
    """The objects in a list such as `[{"bbox_2d": [0, 0, 9, 9], "label": "cat"}]`, in JSON or Python, in a code block
    or alone; `None` of anything else, and of boxes whose sides are turned around."""
    if block := re.search(r"```\w*\s*(.*?)```", text, re.DOTALL):
        text = block[1]
    rows = _listed(text.strip())
    if not isinstance(rows, list) or not 0 < len(rows) <= MOST_BOXES:
        return None
    found = [_read(row) for row in rows]
    return None if None in found else [one for one in found if one is not None]


def _read(row: Any) -> Found | None:
    if not isinstance(row, Mapping) or not isinstance(row.get("label"), str) or not is_box(row.get("bbox_2d")):
        return None
    return Found(" ".join(row["label"].lower().split()), tuple(map(float, row["bbox_2d"])))


def is_box(value: Any) -> bool:
    """Whether it is four numbers, right behind left and bottom below top."""
    numbers = isinstance(value, list | tuple) and len(value) == 4 and all(_is_number(side) for side in value)
    return numbers and value[0] <= value[2] and value[1] <= value[3]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9


def _listed(text: str) -> Any:
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return None


def _area(box: Box) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])
