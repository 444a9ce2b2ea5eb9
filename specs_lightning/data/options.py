"""The options of a multiple-choice row, in whatever form they stand, and whether its gold answer names one of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from specs_lightning.data.schemas import listed
from specs_lightning.scoring.choices import LETTERS
from specs_lightning.scoring.text import plain, same_text

_LABEL = re.compile(r"\s*(?:[(（\[]\s*([A-Za-z])\s*[)）\]]|([A-Za-z])\s*[.．:：、)）])[.:]?\s*(?=\S)")
_BARE_LABEL = re.compile(r"[(（\[]?\s*([A-Za-z])\s*[)）\]]?\s*[.:]?")


def read_options(value: Any) -> tuple[str, ...]:
    """The options, given as a list, or in a string: as a Python or JSON list, or one a line; none of an empty one.

    `ValueError` of anything else, and of a single option.
    """
    if isinstance(value, str) and value.strip():
        lines = [line.strip() for line in value.strip().split("\n") if line.strip()]
        if (found := listed(value)) is None and len(lines) < 2:
            raise ValueError(f"choices are not a list: {value[:80]!r}")
        value = lines if found is None else found
    if not value:
        return ()
    if not isinstance(value, list | tuple):
        raise ValueError(f"choices are not a list: {type(value).__name__}")
    if wrong := [choice for choice in value if not isinstance(choice, str | int | float)]:
        raise ValueError(f"choice is not text or a number: {type(wrong[0]).__name__}")
    if len(value) == 1:
        raise ValueError(f"one choice only: {str(value[0])[:80]!r}; give at least two, or none")
    return tuple(str(choice) for choice in value)


def lettered_options(row: Mapping[str, Any]) -> tuple[str, ...]:
    """What the columns A, B, … hold, an option each, up to the first that is empty."""
    values = takewhile(lambda value: value not in (None, "") and value == value, map(row.get, LETTERS))
    return read_options(list(values))


def without_labels(options: Sequence[str]) -> tuple[str, ...]:
    """The options without the labels that they carry themselves ("A. 12 cm"), where these run from A on."""
    found = [_LABEL.match(option) for option in options]
    labels = [(match[1] or match[2]).upper() for match in found if match]
    if labels != list(LETTERS[: len(options)]):
        return tuple(options)
    return tuple(option[match.end() :].strip() for option, match in zip(options, found, strict=True) if match)


def named_twice(gold: str, options: Sequence[str]) -> str | None:
    """Why it cannot be told which option a gold answer means: it is the label of one by place, and stands in another.

    Such are `(b)` among the options `(c)`, `(a)`, `(b)`, and `B` where options carry labels out of order.
    """
    match = _BARE_LABEL.fullmatch(plain(gold))
    place = LETTERS.index(match[1].upper()) if match else len(options)
    if match is None or place >= len(options):
        return None
    own = [i for i, option in enumerate(options) if _label_of(option) == match[1].upper() or same_text(option, gold)]
    if not own or place in own:
        return None
    return f"{gold!r} is the label of {options[place][:40]!r} by its place, and stands in {options[own[0]][:40]!r}"


def _label_of(option: str) -> str | None:
    """The label that an option is, or carries."""
    match = _BARE_LABEL.fullmatch(plain(option)) or _LABEL.match(option)
    return (match[1] or match[match.lastindex or 1]).upper() if match else None
