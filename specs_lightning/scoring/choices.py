"""Which option of a multiple-choice question an answer picks."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from specs_lightning.scoring.quantities import read_quantity, same_quantity
from specs_lightning.scoring.text import plain, same_text

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

_LETTER = re.compile(r"\(?\s*([A-Za-z])\s*\)?\s*[.:]?")
_LABELLED = re.compile(r"(?:\(\s*([A-Za-z])\s*\)|([A-Za-z])\s*[.:)])[\s.:)]*(\S.*)", re.DOTALL)
_ANOTHER = re.compile(r"(?:or|and|[,/&])\s*\(?[A-Z]\)?(?:[.:)]|$)")
_LABEL_AND_TEXT = re.compile(r"([A-Z])\s+(\S.*)", re.DOTALL)


def picked_option(answer: str, choices: Sequence[str] = ()) -> int | None:
    r"""The index of the option that an answer picks, 0 for A: "C", "(C)", "C. 12", "\text{(B)}\ 180", or its text.

    A letter in range is taken as a label even where it is also an option's text, and a label counts before the text
    that stands beside it. Without `choices`, letters alone are read. `None` where no single option is picked.
    """
    text = plain(answer)
    if (match := _LETTER.fullmatch(text)) and (index := _index(match[1], choices)) is not None:
        return index
    if (by_text := _only(choices, lambda choice: same_text(choice, text))) is not None:
        return by_text
    if (match := _LABELLED.fullmatch(text)) and not _ANOTHER.match(match[3]):
        return _index(match[1] or match[2], choices)
    if match := _LABEL_AND_TEXT.fullmatch(text):
        index = _index(match[1], choices)
        if index is not None and choices and same_text(choices[index], match[2]):
            return index
    named = set(re.findall(r"\(([A-Z])\)", text))
    if len(named) == 1:
        return _index(named.pop(), choices)
    if (quantity := read_quantity(text)) is None:
        return None
    return _only(choices, lambda choice: (own := read_quantity(choice)) is not None and same_quantity(own, quantity))


def _index(letter: str, choices: Sequence[str]) -> int | None:
    index = LETTERS.index(letter.upper())
    return index if index < (len(choices) or len(LETTERS)) else None


def _only(choices: Sequence[str], holds: Callable[[str], bool]) -> int | None:
    indices = [i for i, choice in enumerate(choices) if holds(choice)]
    return indices[0] if len(indices) == 1 else None
