"""Which option of a multiple-choice question an answer picks."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache

from specs_lightning.scoring.quantities import read_quantity, same_quantity
from specs_lightning.scoring.text import plain, same_text, yes_or_no

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

_ALONE = re.compile(r"[(\[{【<]?\s*([A-Za-z])\s*[)\]}】>]?\s*(?:选项|项)?\s*[.:]?")
_LABELLED = re.compile(r"(?:[(\[{【]\s*([A-Za-z])\s*[)\]}】]|([A-Za-z])\s*[.:)])[\s.:)]*(\S.*)", re.DOTALL)
_AND_REASON = re.compile(
    r"[(\[{]?([A-Z])[)\]}]?\s*(?:,\s*)?(?:is\s+(?:the\s+)?(?:correct|right|true|best|answer)|since\b|because\b|as\b|for\b"
    r"|so\b|due\b|which\b|that\b|是|因为).*",
    re.DOTALL,
)
_AND_TEXT = re.compile(r"([A-Z])\s*(?:[-=,]\s*|\s)\s*(\S.*)", re.DOTALL)
_IN_BRACKETS = re.compile(r"([A-Z])\s*[(\[]\s*(\S[^()\[\]]*?)\s*[)\]]")
_NAMED = re.compile(r"[(\[{](?:(?i:option|choice)\s)?([A-Z])[)\]}]")
_LABEL = re.compile(r"(?<![A-Za-z])(?:[(\[{]([A-Z])[)\]}]|([A-Z])[.:)])")
_ANOTHER = re.compile(r"(?:or|and|[,/&])\s*\(?[A-Z]\)?(?:[.:)]|$)")


def picked_option(answer: str, choices: Sequence[str] = ()) -> int | None:
    r"""The index of the option that an answer picks, 0 for A: "C", "(C)", "C. 12", "\text{(B)}\ 180", or its text.

    A letter in range is taken as a label even where it is also an option's text, and a label counts before the text
    that stands beside it. Without `choices`, letters alone are read. `None` where no single option is picked: "(A) (B)",
    "A. 12, B. 15".
    """
    return _picked_option(answer, tuple(choices))


@lru_cache(maxsize=4096)
def _picked_option(answer: str, choices: tuple[str, ...]) -> int | None:
    text = plain(answer)
    if (match := _ALONE.fullmatch(text)) and (index := _index(match[1], choices)) is not None:
        return index
    if (by_text := _only(choices, lambda choice: same_text(choice, text))) is not None:
        return by_text
    if (said := yes_or_no(text)) is not None and (
        by_sense := _only(choices, lambda choice: yes_or_no(choice) is said)
    ) is not None:
        return by_sense
    if (match := _AND_REASON.fullmatch(text)) and (index := _index(match[1], choices)) is not None:
        return index
    labels = {match[1] or match[2] for match in _LABEL.finditer(text)} & set(LETTERS[: len(choices) or None])
    if len(labels) > 1:
        return None
    if (match := _LABELLED.fullmatch(text)) and not _ANOTHER.match(match[3]):
        return _index(match[1] or match[2], choices)
    if (index := _beside_its_text(text, choices)) is not None:
        return index
    named = set(_NAMED.findall(text))
    if len(named) == 1:
        return _index(named.pop(), choices)
    if (quantity := read_quantity(text)) is None:
        return None
    return _only(choices, lambda choice: (own := read_quantity(choice)) is not None and same_quantity(own, quantity))


def _beside_its_text(text: str, choices: Sequence[str]) -> int | None:
    """Of a label with its option's text: "B Wednesday", "A (12)", "C - 18 cm"."""
    for pattern in (_IN_BRACKETS, _AND_TEXT):
        if (match := pattern.fullmatch(text)) and (index := _index(match[1], choices)) is not None:
            if choices and (same_text(choices[index], match[2]) or picked_option(match[2], choices) == index):
                return index
            if not choices and pattern is _IN_BRACKETS:
                return index
    return None


def _index(letter: str, choices: Sequence[str]) -> int | None:
    index = LETTERS.index(letter.upper())
    return index if index < (len(choices) or len(LETTERS)) else None


def _only(choices: Sequence[str], holds: Callable[[str], bool]) -> int | None:
    indices = [i for i, choice in enumerate(choices) if holds(choice)]
    return indices[0] if len(indices) == 1 else None
