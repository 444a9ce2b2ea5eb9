"""Whether reasoning ends where its answer says that it does, by rule; whether the steps are sound is not seen."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import TypeVar

from specs_lightning.scoring.answer_formats import (
    FORMATS,
    BoxedFormat,
    LineFormat,
    Parts,
    answer_format,
    restore_latex,
    tag_formats,
)
from specs_lightning.scoring.answer_search import find_answer
from specs_lightning.scoring.choices import LETTERS, picked_option
from specs_lightning.scoring.comparison import resolve_type
from specs_lightning.scoring.quantities import read_quantity, same_quantity
from specs_lightning.scoring.sentences import sentences_before, whole_sentences
from specs_lightning.scoring.text import plain, same_text, yes_or_no

T = TypeVar("T")

_MARKER = re.compile(
    r"\b(?:so|therefore|thus|hence|conclude|conclusion|answer|is|are|equals?|gives?|makes?|making|leaves?|leaving)\b"
    r"|=>|=|≈|\\approx\b|\\boxed\b|→",
    re.IGNORECASE,
)
"""Words and signs that a conclusion follows."""
_STOP = re.compile(r"[;\n!?]|\.(?=\s|$)")
_NUMBER = re.compile(
    r"(?<![A-Za-z_\d.])(?:(?<![\w)])-)?"  # neither the 2 of "b2" nor the minus of "5-3"
    r"(?:\d+\s*/\s*\d+|\\[dt]?frac\{-?\d+\}\{\d+\}|\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d*\.?\d+)(?:\s*\\?%)?"
)
TAIL = 4000
"""Characters of reasoning, from its end, in which its conclusion is looked for: degenerate text costs little then."""
_YES_NO = re.compile(r"\b(?:yes|no|true|false)\b", re.IGNORECASE)
_LETTER = re.compile(r"\(([A-Z])\)|\b(?:option|choice|answer)\s+([A-Z])\b|(?<![\w'])([A-Z])(?=[.):]|\s*$)")

_JSON_REASONING = re.compile(r'"reasoning"\s*:\s*("(?:[^"\\]|\\.)*")', re.DOTALL)


def is_consistent(reasoning: str, answer: str, answer_type: str = "auto", choices: Sequence[str] = ()) -> bool:
    """Whether the conclusion of reasoning, given without its tags, agrees with the answer.

    The conclusion is what follows the last marker ("so", "is", "=", "answer", …) that something of the answer's kind
    follows within its sentence; without such a marker it is the last number, yes or no, or option. Reasoning that
    comes to no such conclusion is not consistent: it does not reach its answer, and a preference pair made of it
    would teach an answer out of nowhere.
    """
    reasoning = reasoning[-TAIL:]
    if not plain(answer) or not reasoning.strip():
        return False
    kind = resolve_type(answer, answer_type, choices)
    picked = picked_option(answer, choices) if kind == "choice" else None
    if picked is not None:
        return _conclusion(reasoning, lambda text: _options(text, choices)) == picked
    if (said := yes_or_no(answer)) is not None:
        return _conclusion(reasoning, lambda text: [yes_or_no(m) for m in _YES_NO.findall(text)]) is said
    if (quantity := read_quantity(answer)) is not None:
        concluded = _conclusion(reasoning, _NUMBER.findall)
        found = None if concluded is None else read_quantity(concluded)
        return found is not None and same_quantity(quantity, found)
    return _ends_with_text(reasoning, answer)


def read_parts(text: str, asked: str) -> Parts | None:
    """Reasoning and answer of a response, the asked format first; `None` where there is no answer.

    The reasoning is whole sentences, without what introduces the answer and without delimiters of any format; it is
    empty where nothing is left.
    """
    for form in (answer_format(asked), *FORMATS.values()):
        if parts := form.read(text):
            in_prose = isinstance(form, BoxedFormat | LineFormat)
            reasoning = sentences_before(*parts) if in_prose else whole_sentences(*parts)
            return Parts(reasoning, parts.answer)
    if (answer := find_answer(text, asked)) is None:
        return None
    return Parts(_loose_reasoning(text, answer, asked), answer)


def _loose_reasoning(text: str, answer: str, asked: str) -> str:
    """The reasoning of a response in no format, before the last mention of its answer."""
    opens_reasoning, closes_reasoning, opens_answer = _delimiters(asked)
    if written := _JSON_REASONING.search(text):
        return whole_sentences(_json_text(written[1]), answer)
    if text.lstrip().startswith("{"):
        return ""  # JSON with other keys
    mentions = list(re.finditer(rf"(?<!\w){re.escape(answer)}(?!\w)", text))
    before = text[: mentions[-1].start()] if mentions else text.rpartition(answer)[0]
    before = opens_reasoning.split(before)[-1]
    reasoning, *behind = closes_reasoning.split(before, maxsplit=1)
    if behind:
        return whole_sentences(reasoning, answer)
    untagged = opens_answer.sub("", reasoning)
    return sentences_before(reasoning, answer) if untagged == reasoning else whole_sentences(untagged, answer)


@lru_cache
def _delimiters(asked: str) -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str]]:
    """What opens and closes reasoning, and what opens an answer at the end of a text: tags of any format."""
    opens, closes, opens_answer = ("|".join(re.escape(form.tags[i]) for form in tag_formats(asked)) for i in (0, 1, 2))
    return re.compile(opens), re.compile(closes), re.compile(rf"(?:{opens_answer})\s*$")


def _json_text(quoted: str) -> str:
    try:
        return restore_latex(json.loads(quoted))
    except ValueError:
        return ""


def _conclusion(reasoning: str, candidates: Callable[[str], list[T]]) -> T | None:
    """The first candidate after the last marker that one follows; else the last candidate of all."""
    for segment in reversed(_segments(reasoning)):
        if found := candidates(segment):
            return found[0]
    found = candidates(reasoning)
    return found[-1] if found else None


def _segments(reasoning: str) -> list[str]:
    """What follows each marker, up to the next marker or the end of the sentence."""
    segments = []
    for sentence in _STOP.split(reasoning):
        segments += _MARKER.split(sentence)[1:]
    return [segment for segment in segments if segment.strip()]


def _options(text: str, choices: Sequence[str]) -> list[int]:
    """The options that a text names, by letter or in full, in its order."""
    if (picked := picked_option(text, choices)) is not None:
        return [picked]
    text = plain(text)
    named = [(m.start(), -1, LETTERS.index(next(filter(None, m.groups())))) for m in _LETTER.finditer(text)]
    for index, choice in enumerate(map(plain, choices)):
        if choice:
            # the longer of two that start together: "square" is not meant by "square root"
            named += [(m.start(), -len(choice), index) for m in _mentions(choice, text)]
    return [index for _, _, index in sorted(named)]


def _ends_with_text(reasoning: str, answer: str) -> bool:
    """Whether the last thing said after a marker, or the last sentence where there is none, holds the answer."""
    said = [text for text in _segments(reasoning) or _STOP.split(reasoning) if plain(text)]
    return bool(said) and (same_text(said[-1], answer) or any(_mentions(plain(answer), plain(said[-1]))))


def _mentions(words: str, text: str) -> Iterator[re.Match[str]]:
    return re.finditer(rf"(?<![\w.]){re.escape(words)}(?!\w|\.\d)", text, re.IGNORECASE)
