"""The rules of MathVista, MathVision and MMMU."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence

from specs_lightning.groups import Prompt
from specs_lightning.scoring.answer_formats import answer_format
from specs_lightning.scoring.answer_search import find_answer, in_tags
from specs_lightning.scoring.choices import LETTERS, picked_option
from specs_lightning.scoring.comparison import LONGEST_EXPRESSION, OtherWords
from specs_lightning.scoring.math_verify import Comparison, Verdict
from specs_lightning.scoring.quantities import Quantity, read_quantity
from specs_lightning.scoring.text import yes_or_no

Judged = Verdict | Comparison | OtherWords | float
"""A verdict, a question for math-verify or a judge, or a share of the answer that is right."""


def said(response: str, prompt: Prompt) -> str:
    """The answer of a response that keeps the asked format or has answer tags; else the whole response, as the
    benchmarks read it."""
    if (parts := answer_format(prompt.answer_format).read(response)) is not None:
        return parts.answer
    return in_tags(response) or response


def mathvision(response: str, prompt: Prompt) -> Judged:
    """MathVision: the letter, or the option's or the gold's value, to two decimals."""
    text = said(response, prompt)
    gold = (prompt.answer or "").strip().lower()
    if prompt.choices and text != response and (picked := picked_option(text, prompt.choices)) is not None:
        return Verdict(LETTERS[picked].lower() == gold)  # beside its text, as the prompt shows the options
    answer = _mathvision_answer(text)
    if answer and answer == gold:
        return Verdict(True)
    if prompt.choices:
        gold = prompt.choices[LETTERS.index(gold.upper())].strip().lower()
        if answer == gold:
            return Verdict(bool(answer))
        if re.search(r"\\(?:text|mathrm|mbox)|(?<!\\)\b[a-z]{2,}|=", gold):
            return Verdict(False)  # words, units and equations, which its script cannot evaluate
    values = read_quantity(gold), read_quantity(answer)
    if values[0] is not None and values[1] is not None:
        return Verdict(round(values[0].value, 2) == round(values[1].value, 2))
    is_value = answer and re.search(r"\d|\\pi", answer) and len(gold + answer) < LONGEST_EXPRESSION
    return Comparison(gold, answer, places=2) if is_value else Verdict(False)


def _mathvision_answer(text: str) -> str:
    text = text.strip()
    for letter in "ABCDE":
        ends = (f" {letter}.", f" ({letter}).")
        if text.endswith(ends) or text.startswith((f"{letter}\n", f"({letter})\n", f"({letter}) {letter}\n")):
            return letter.lower()
    if r"\boxed" not in text:
        for flag in ("final answer is", "answer is", "correct answer is", "answer should be"):
            _, found, behind = text.rpartition(flag)
            if found:
                text = re.split(r"\n|\. ", behind.strip())[0]
    elif (inside := find_answer(text, "boxed")) is not None:
        text = inside
    text = re.split(r"=|\\approx", text.lower())[-1]
    text = re.sub(r"\\(?:left|right|text|mbox|[,!])|\^\{?\\circ\}?|\\?[$%]|\\\\|units|\{?km\}?|\s", "", text)
    return re.sub(r"[({]+([a-e])[)}]+", r"\1", text).replace("tfrac", "frac").replace("dfrac", "frac").strip(".:")


def mathvista(response: str, prompt: Prompt) -> Judged:
    """MathVista: the option that is most like the answer; integers cut, decimals rounded; text letter by letter."""
    gold = prompt.answer or ""
    if prompt.choices:
        return Verdict(_mathvista_option(response, prompt) == gold)
    answer = in_tags(response)
    kind = prompt.metadata.get("published_answer_type")
    if kind not in ("integer", "float"):
        return Verdict((find_answer(response, prompt.answer_format) or "").strip() == gold)
    right, given = read_quantity(gold), _mathvista_number(response, prompt) if answer is None else read_quantity(answer)
    if right is None or given is None:
        return Verdict(False)
    if kind == "integer":
        return Verdict(int(right.value) == int(given.value))
    places = prompt.precision or 0
    return Verdict(round(right.value, places) == round(given.value, places))


_REFUSAL = re.compile(
    r"\b(?:cannot|can't|can\s?not|unable\s+to|impossible\s+to|not\s+possible\s+to)\s+(?:be\s+)?(?:answer|determine|provide|solve|find"
    r"|calculate|conclude|compare|see|tell)|\bnot\s+(?:provide|specify|mention|contain|include|enough|sufficient|clear"
    r"|available)|\bmissing\b|\bno\s+(?:information|image|way)\b",
    re.IGNORECASE,
)


def _mathvista_option(response: str, prompt: Prompt) -> str | None:
    """The option that a response comes to; its script asks a language model for a response without answer tags."""
    answer, choices = (find_answer(response, prompt.answer_format) or "").strip(), prompt.choices
    if in_tags(response) is None:
        opening = re.match(r"\s*\(?([A-Z])[.:)]\s*", response) or re.match(r"\s*\(?([A-Z])(?:[.:)]\s*|$)", answer)
        index = picked_option(answer, choices)
        if index is None and opening and (index := picked_option(opening[1], choices)) is None:
            index = picked_option(re.sub(r"^\(?[A-Z][.:)]\s*", "", answer), choices)
            if len(answer.split()) > 4:
                answer = opening[1]  # a letter of no option
        if index is None and (index := _mentioned(response, choices)) is None and _REFUSAL.search(response[-400:]):
            answer = _refusal(response)
        if index is not None:
            return choices[index]
    elif label := re.search(r"\(([a-zA-Z])\)", answer):
        answer = label[1].upper()
    if answer in LETTERS[: len(choices)] and len(answer) == 1:
        return choices[LETTERS.index(answer)]
    return min(choices, key=lambda option: distance(answer, option)) if answer and response.strip() else None


def _refusal(response: str) -> str:
    """A refusal in short, as the benchmark's script has it noted: it looks for the option that is most like it."""
    if cannot := list(re.finditer(r"\b(?:question|answer|it)\s+(cannot\s+be\s+(?:answered|determined))", response)):
        return cannot[-1][1].capitalize()
    return "N/A" if re.search(r"[.!?]\s+\S|solution", response) else response.strip()


def _mentioned(response: str, choices: Sequence[str]) -> int | None:
    """The option that a response opens with, or the only one that its last sentence, its first or all of it names."""
    sentences = [part for part in re.split(r"(?<=[.!?])\s+|\n", response) if part.strip()]
    if not sentences:
        return None
    kinds = [yes_or_no(choice) for choice in choices]
    if set(kinds) == {True, False}:
        said = yes_or_no(re.sub(r"^\s*\(?[A-Z][.:)]\s*", "", response))
        if said is None and not _REFUSAL.search(response):
            said = re.search(r"\b(?:not|no|none|never|neither)\b|n't\b", sentences[0]) is None
        return None if said is None else kinds.index(said)
    for text in (sentences[-1], sentences[0], response):
        words = re.findall(r"\w+", text.lower())
        named = [i for i, choice in enumerate(choices) if _in_this_order(re.findall(r"\w+", choice.lower()), words)]
        # the longest of those that lie in one another: "decrease" in "decrease a lot"
        named = [i for i in named if not any(i != j and choices[i].lower() in choices[j].lower() for j in named)]
        if len(named) == 1:
            return named[0]
    return None


def _in_this_order(words: list[str], text: list[str]) -> bool:
    """Whether a text has all of these words, in this order, whatever stands between them."""
    following = iter(text)
    return bool(words) and all(word in following for word in words)


def _mathvista_number(response: str, prompt: Prompt) -> Quantity | None:
    """What a response states, else the last number of its last sentence with one."""
    answer = find_answer(response, prompt.answer_format) or ""
    if (quantity := read_quantity(answer)) is not None:
        return quantity
    if opening := re.match(r"[$*]*(\d[\d,]*(?:\.\d+)?|[a-z]{3,6})\b(?!\s*[+=*/^-])", answer):
        return read_quantity(opening[1].rstrip(","))
    for sentence in reversed(re.split(r"(?<=[.!?])\s+|\n", response)):
        if found := re.findall(r"(?<![\w.])-?\$?(\d[\d,]*(?:\.\d+)?)", sentence):
            return read_quantity(found[-1])
    return None


def distance(left: str, right: str) -> int:
    """The edit distance of two texts, of which the first 500 characters count."""
    left, right = left[:500], right[:500]
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(right, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


def mmmu(response: str, prompt: Prompt) -> Judged:
    """MMMU: the last option that is named, by letter or by text; numbers to two decimals; text as a part."""
    text = said(response, prompt)
    if prompt.choices:
        return Verdict(_mmmu_option(text, prompt.choices) == (prompt.answer or "").strip().upper())
    golds = [prompt.answer or "", *json.loads(prompt.metadata.get("alternatives") or "[]")]
    return Verdict(any(_holds(key, gold) for gold in golds for key in _mmmu_keys(text)))


def _mmmu_option(text: str, choices: Sequence[str]) -> str | None:
    text = f" {text.strip(',.!?;: ')} "
    letters = LETTERS[: len(choices)]
    named = [[text.rfind(form.format(letter)) for letter in letters] for form in ("({})", " {} ")]
    if len(text.split()) > 5:
        named.append([text.lower().rfind(choice.lower()) for choice in choices])
    return next((letters[places.index(max(places))] for places in named if max(places) >= 0), None)


def _mmmu_keys(text: str) -> list[str]:
    """The ends of the sentences that announce a result; the whole text where none does."""
    keys = []
    sentences = re.split(r"\.\s(?=[A-Z])|\n", text.strip().strip("."))
    for number, sentence in enumerate(sentences):
        words = ["could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result "]
        words += ["="] if number == len(sentences) - 1 else []
        ends = [sentence.lower().rpartition(word)[2].strip() for word in words if word in sentence.lower()]
        if ends and (shortest := min(ends, key=len)).strip(":,.!?;' "):
            keys.append(shortest)
    return keys or [text.lower()]


def _holds(key: str, gold: str) -> bool:
    """A number among others, a text as a part; a single letter counts as a word of its own only."""
    if (number := _float(gold)) is not None:
        return number in _floats(key)
    gold = gold.strip().lower()
    return bool(gold) and (gold in key if len(gold) > 1 else re.search(rf"\b{re.escape(gold)}\b", key) is not None)


def _floats(text: str) -> list[float]:
    found = re.findall(r"-?(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d*\.?\d+(?:[eE][+-]?\d+)?)", text)
    return [number for part in found if (number := _float(part)) is not None]


def _float(text: str) -> float | None:
    try:
        number = float(text.strip().replace(",", ""))
    except ValueError:
        return None
    return round(number, 2) if math.isfinite(number) else None
