"""The rule of MathVista, whose script has a language model find the answer in a response; here rules find it.

What is found is compared as the script does: integers cut, decimals rounded, text letter by letter, and anything that
names no option is taken for the option that it is most like.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from specs_lightning.groups import Prompt
from specs_lightning.scoring.answer_search import find_answer
from specs_lightning.scoring.benchmarks.rules import said
from specs_lightning.scoring.choices import LETTERS, picked_option
from specs_lightning.scoring.math_verify import Verdict
from specs_lightning.scoring.quantities import Quantity, read_quantity
from specs_lightning.scoring.text import yes_or_no

_LABEL = re.compile(r"\s*\(?([A-Z])(?:[.:)]\s*|$)")
_REFUSAL = re.compile(
    r"\b(?:cannot|can't|can\s+not|unable\s+to|impossible\s+to|not\s+possible\s+to)\s+(?:be\s+)?(?:answer|determine|provide"
    r"|solve|find|calculate|conclude|compare|see|tell)|\bnot\s+(?:provide|specify|mention|contain|include|enough"
    r"|sufficient|clear|available)|\bmissing\b|\bno\s+(?:information|image|way)\b",
    re.IGNORECASE,
)
_CANNOT = re.compile(r"\b(?:question|answer|it)\s+(cannot\s+be\s+(?:answered|determined))")
_NEGATION = re.compile(r"\b(?:not|no|none|never|neither)\b|n't\b", re.IGNORECASE)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n")
_NUMBER = re.compile(r"(?<![\w.])-?\$?(\d[\d,]*(?:\.\d+)?)")
_NUMBER_FIRST = re.compile(r"[$*]*(\d[\d,]*(?:\.\d+)?|[a-z]{3,6})\b(?!\s*[+=*/^-])")
_END = 400
"""Characters of a response's end in which it may refuse to answer."""
_SHORT = 4
"""Words of an answer that says something beside its label."""


def mathvista(response: str, prompt: Prompt) -> Verdict:
    """Whether the option, the number or the text that a response comes to is the gold's."""
    answer = (find_answer(response, prompt.answer_format) or "").strip()
    gold, given_apart = prompt.answer or "", said(response, prompt) != response
    if prompt.choices:
        if gold not in prompt.choices and gold in tuple(LETTERS[: len(prompt.choices)]):  # two options are the same
            gold = prompt.choices[LETTERS.index(gold)]
        found = None if given_apart else _named(response, answer, prompt.choices)
        alike = _most_alike(answer if given_apart else _noted(response, answer), prompt.choices)
        return Verdict(gold == (alike if found is None else prompt.choices[found]))
    kind = prompt.metadata.get("published_answer_type")
    if kind not in ("integer", "float"):
        return Verdict(answer == gold)
    right, given = read_quantity(gold), read_quantity(answer) if given_apart else _number(response, answer)
    if right is None or given is None:
        return Verdict(False)
    places = prompt.precision or 0
    rounded = [int(q.value) if kind == "integer" else round(q.value, places) for q in (right, given)]
    return Verdict(rounded[0] == rounded[1])


def _most_alike(answer: str, choices: Sequence[str]) -> str | None:
    """The option of a label, or the one that an answer is most like, as the script has it; none of no answer."""
    if label := re.search(r"\(([a-zA-Z])\)", answer):
        answer = label[1].upper()
    if len(answer) == 1 and answer in LETTERS[: len(choices)]:
        return choices[LETTERS.index(answer)]
    return min(choices, key=lambda option: distance(answer, option)) if answer else None


def _named(response: str, answer: str, choices: Sequence[str]) -> int | None:
    """The option that the answer names, that a label names with which the response opens, or that its sentences do."""
    opening = _LABEL.match(response)
    for text in (answer, opening[1] if opening else "", _LABEL.sub("", answer, count=1)):
        if text and (index := picked_option(text, choices)) is not None:
            return index
    return _in_sentences(response, choices)


def _in_sentences(response: str, choices: Sequence[str]) -> int | None:
    """The only option that the last sentence names, or else the first or the whole; yes or no as the first has it."""
    sentences = [part for part in _SENTENCE_END.split(response) if part.strip()]
    if not sentences:
        return None
    senses = [yes_or_no(choice) for choice in choices]
    if set(senses) == {True, False}:
        said = yes_or_no(_LABEL.sub("", response, count=1))
        if said is None and not _REFUSAL.search(response):
            said = not _NEGATION.search(sentences[0])
        return None if said is None else senses.index(said)
    for text in (sentences[-1], sentences[0], response):
        words = re.findall(r"\w+", text.lower())
        named = [i for i, choice in enumerate(choices) if _in_this_order(re.findall(r"\w+", choice.lower()), words)]
        # the longest of those that lie in one another: "decrease" in "decrease a lot"
        named = [i for i in named if not any(i != j and choices[i].lower() in choices[j].lower() for j in named)]
        if len(named) == 1:
            return named[0]
    return None


def _in_this_order(words: Sequence[str], text: Sequence[str]) -> bool:
    """Whether a text has all of these words, in this order, whatever stands between them."""
    following = iter(text)
    return bool(words) and all(word in following for word in words)


def _noted(response: str, answer: str) -> str:
    """What the script's language model notes of a response that names no option: a foreign label, a refusal in short,
    or else what is said."""
    if (label := _LABEL.match(answer)) and len(answer.split()) > _SHORT:
        return label[1]
    if not _REFUSAL.search(response[-_END:]):
        return answer
    if cannot := list(_CANNOT.finditer(response)):
        return cannot[-1][1].capitalize()
    return "N/A" if len(_SENTENCE_END.split(response.strip())) > 1 else response.strip()


def _number(response: str, answer: str) -> Quantity | None:
    """The number that an answer is or begins with; else the last one of the last sentence that has any."""
    if (quantity := read_quantity(answer)) is not None:
        return quantity
    if opening := _NUMBER_FIRST.match(answer):
        return read_quantity(opening[1].rstrip(","))
    numbers = (_NUMBER.findall(sentence) for sentence in reversed(_SENTENCE_END.split(response)))
    last = next((found[-1] for found in numbers if found), None)
    return None if last is None else read_quantity(last)


def distance(left: str, right: str) -> int:
    """The edit distance of two texts, of which the first 500 characters count."""
    left, right = left[:500], right[:500]
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(right, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]
