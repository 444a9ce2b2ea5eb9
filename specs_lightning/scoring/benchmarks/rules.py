"""The rules of MathVision and MMMU, and what all rules share."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence

from specs_lightning.groups import Prompt
from specs_lightning.scoring.answer_formats import answer_format
from specs_lightning.scoring.answer_search import find_answer, in_tags
from specs_lightning.scoring.choices import LETTERS, picked_option
from specs_lightning.scoring.comparison import LONGEST_EXPRESSION, Judged
from specs_lightning.scoring.math_verify import Comparison, Verdict
from specs_lightning.scoring.quantities import read_quantity

Ruling = Judged | float
"""What a benchmark's rule says: a verdict, a question, or the share of an answer that is right."""


def said(response: str, prompt: Prompt) -> str:
    """The answer of a response that keeps the asked format or has answer tags; else the whole response, as the
    benchmarks read it."""
    if (parts := answer_format(prompt.answer_format).read(response)) is not None:
        return parts.answer
    return in_tags(response) or response


def mathvision(response: str, prompt: Prompt) -> Ruling:
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


def mmmu(response: str, prompt: Prompt) -> Ruling:
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
