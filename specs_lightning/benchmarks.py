"""The rules by which published benchmarks read and compare answers, for `PromptSource.benchmark`.

A score depends on its harness: these follow the benchmarks' own scripts, and depart from them where those ask a
language model (MathVista and MathVerse, to find the answer in a response), draw at random (MMMU, where a response names
no option: wrong here) or evaluate what a model wrote as code (MathVision: math-verify here). Always score the base by
the same rule.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from specs_lightning.answer_formats import answer_format, find_answer
from specs_lightning.groups import Prompt
from specs_lightning.rewards.accuracy import OtherWords, judge_by_rules
from specs_lightning.rewards.choices import LETTERS
from specs_lightning.rewards.quantities import read_quantity
from specs_lightning.rewards.workers import Comparison, Verdict

Judged = Verdict | Comparison | OtherWords | float
"""A verdict, a question for math-verify or a judge, or a share of the answer that is right."""
Rule = Callable[[str, Prompt], Judged]


def judge_response(response: str, prompt: Prompt) -> Judged:
    """By the rule of the prompt's benchmark, or as any other answer."""
    return RULES.get(prompt.metadata.get("benchmark", ""), judge_by_rules)(response, prompt)


def said(response: str, prompt: Prompt) -> str:
    """The answer of a response that keeps the asked format; the whole response, as the benchmarks read it, else."""
    parts = answer_format(prompt.answer_format).read(response)
    return parts.answer if parts is not None else response


def mathvision(response: str, prompt: Prompt) -> Judged:
    """MathVision: the letter, or the option's or the gold's value, to two decimals."""
    answer = _mathvision_answer(said(response, prompt))
    gold = (prompt.answer or "").strip().lower()
    if answer and answer == gold:
        return Verdict(True)
    if prompt.choices:
        gold = prompt.choices[LETTERS.index(gold.upper())].strip().lower()
        if answer == gold:
            return Verdict(bool(answer))
        if re.search(r"\\(?:text|mathrm|mbox)|(?<!\\)\b[a-z]{2,}", gold):
            return Verdict(False)  # words and units, which its script cannot evaluate
    values = read_quantity(gold), read_quantity(answer)
    if values[0] is not None and values[1] is not None:
        return Verdict(round(values[0].value, 2) == round(values[1].value, 2))
    return Comparison(gold, answer) if answer and re.search(r"\d|\\pi", answer) else Verdict(False)


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
    return re.sub(r"[({]([a-e])[)}]", r"\1", text).replace("tfrac", "frac").replace("dfrac", "frac").strip(".:")


def mathvista(response: str, prompt: Prompt) -> Judged:
    """MathVista: the option that is most like the answer; integers cut, decimals rounded; text letter by letter."""
    answer = (find_answer(response, prompt.answer_format) or "").strip()
    gold = prompt.answer or ""
    if prompt.choices:
        if label := re.search(r"\(([a-zA-Z])\)", answer):
            answer = label[1].upper()
        if answer in LETTERS[: len(prompt.choices)] and len(answer) == 1:
            return Verdict(prompt.choices[LETTERS.index(answer)] == gold)
        return Verdict(bool(answer) and min(prompt.choices, key=lambda option: distance(answer, option)) == gold)
    kind = prompt.metadata.get("published_answer_type")
    values = read_quantity(gold), read_quantity(answer)
    if kind in ("integer", "float"):
        if values[0] is None or values[1] is None:
            return Verdict(False)
        if kind == "integer":
            return Verdict(int(values[0].value) == int(values[1].value))
        places = prompt.precision or 0
        return Verdict(round(values[0].value, places) == round(values[1].value, places))
    return Verdict(answer == gold)


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
    golds = [prompt.answer or "", *json.loads(prompt.metadata.get("alternatives") or "[]")]
    if prompt.choices:
        return Verdict(_mmmu_option(text, prompt.choices) == (prompt.answer or "").strip().upper())
    spoken = _mmmu_keys(text)
    for gold in golds:
        if (number := _float(gold)) is not None:
            if any(number == other for key in spoken for other in _floats(key)):
                return Verdict(True)
        elif any(_padded(gold, key) for key in spoken):
            return Verdict(True)
    return Verdict(False)


def _mmmu_option(text: str, choices: Sequence[str]) -> str | None:
    text = f" {text.strip(',.!?;: ')} "
    letters = LETTERS[: len(choices)]
    for form in ("({})", " {} "):
        places = {letter: text.rfind(form.format(letter)) for letter in letters}
        if max(places.values(), default=-1) >= 0:
            return max(places, key=lambda letter: places[letter])
    if len(text.split()) > 5:
        places = {letter: text.lower().rfind(c.lower()) for letter, c in zip(letters, choices, strict=True)}
        if max(places.values(), default=-1) >= 0:
            return max(places, key=lambda letter: places[letter])
    return None


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


def _padded(gold: str, key: str) -> bool:
    """A single letter counts as a word of its own only."""
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


def mega_bench(response: str, prompt: Prompt) -> Judged:
    """MEGA-Bench: each field by its own metric, joined as the task says; no verdict where one is not read here."""
    golds: dict[str, Any] = json.loads(prompt.metadata["fields"])
    info = _literal(prompt.metadata.get("metric_info"))
    if not isinstance(info, dict):
        return Verdict(None, "metric_info is not readable")
    metrics = info.get("field_score_function", {})
    if foreign := sorted({str(metrics.get(name)) for name in golds} - FIELD_METRICS.keys()):
        return Verdict(None, f"no rule for the metric {' and '.join(foreign)}")
    text = said(response, prompt)
    if "json" in str(info.get("response_parse_function", "")):
        fields = _last_json(text)
        answers = fields if isinstance(fields, dict) and fields else dict.fromkeys(golds, text)
    else:
        answers = dict.fromkeys(golds, _behind_answer(text))
    scores = {name: FIELD_METRICS[metrics[name]](answers.get(name, ""), gold) for name, gold in golds.items()}
    joined = info.get("aggregation") or {}
    if joined.get("function") == "min":
        return min(scores.values())
    weights: Mapping[str, float] = joined.get("field_weights") or {}
    total = sum(weights.get(name, 1.0) for name in scores)
    return sum(weights.get(name, 1.0) * score for name, score in scores.items()) / total if total else math.nan


def _behind_answer(text: str) -> str:
    text = re.split(r"\*{0,2}[Aa]nswer:\*{0,2}", text)[-1].strip()
    if block := re.search(r"```\w*\s*(.*?)\s*```", text, re.DOTALL):
        text = block[1]
    value = _literal(text)
    return value if isinstance(value, str) else text.strip()


def _last_json(text: str) -> Any:
    decoder = json.JSONDecoder()
    for start in reversed([match.start() for match in re.finditer(r"\{", text)][:1000]):
        try:
            value, end = decoder.raw_decode(text[start:])
        except (ValueError, RecursionError):
            continue
        before = text[:start].count("{") - text[:start].count("}")
        if before == 0 and end:
            return value
    return None


def _literal(text: Any) -> Any:
    if not isinstance(text, str) or len(text) > 100_000:
        return text
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return text


def _exact(answer: Any, gold: Any) -> float:
    answer, gold = str(answer), str(gold)
    if len(gold) == 1 and gold.isalpha() and (letter := re.match(r"\(?([A-Za-z])\)?(?:\s*\.|$|\W)", answer)):
        answer = letter[1]
    return float(answer == gold)


def _simple(answer: Any, gold: Any) -> float:
    return _exact(*(re.sub(r"[ \-\n\t.]", "", str(value)).lower() for value in (answer, gold)))


def _near_number(answer: Any, gold: Any) -> float:
    values = read_quantity(str(answer)), read_quantity(str(gold))
    if values[0] is None or values[1] is None:
        return _simple(answer, gold)
    return float(abs(values[0].value - values[1].value) <= abs(values[1].value) / 100)


def _items(value: Any) -> list[str]:
    value = _literal(value)
    if isinstance(value, str):
        value = [part.strip() for part in value.strip("[](){} ").split(",")]
    return [str(item) for item in value] if isinstance(value, list | tuple | set) else [str(value)]


def _lower(metric: Callable[[Any, Any], float]) -> Callable[[Any, Any], float]:
    return lambda answer, gold: metric(str(answer).lower(), str(gold).lower())


def _same_set(answer: Any, gold: Any) -> float:
    return float(set(_items(answer)) == set(_items(gold)))


def _same_sequence(answer: Any, gold: Any) -> float:
    return float(_items(answer) == _items(gold))


def _jaccard(answer: Any, gold: Any) -> float:
    left, right = set(_items(answer)), set(_items(gold))
    return len(left & right) / len(left | right) if left | right else 1.0


FIELD_METRICS: dict[str, Callable[[Any, Any], float]] = {
    "exact_str_match": _exact,
    "exact_str_match_case_insensitive": _lower(_exact),
    "simple_str_match": _simple,
    "multi_ref_phrase": lambda answer, gold: max(_simple(answer, one) for one in _items(gold)),
    "general_single_numerical_match": _near_number,
    "set_equality": _same_set,
    "set_equality_case_insensitive": _lower(_same_set),
    "str_set_equality_comma": _lower(_same_set),
    "sequence_equality": _same_sequence,
    "sequence_equality_case_insensitive": _lower(_same_sequence),
    "jaccard_index": _jaccard,
    "jaccard_index_case_insensitive": _lower(_jaccard),
}
"""The metrics of MEGA-Bench that are read here, of the 45 that it has."""

RULES: dict[str, Rule] = {
    "mathvista": mathvista,
    "mathverse": judge_by_rules,
    "mathvision": mathvision,
    "mmmu": mmmu,
    "mega_bench": mega_bench,
}
