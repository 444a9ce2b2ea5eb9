"""The rule of MEGA-Bench: a response has fields, each with a metric of its own, and their scores are joined.

Of the benchmark's 45 metrics, those are read that compare by rule alone. The others ask a language model, the network,
a computer algebra system or a tokenizer of Chinese, or run code: a question with one of them has no verdict.
"""

from __future__ import annotations

import ast
import json
import math
import operator
import re
import unicodedata
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any

from specs_lightning.groups import Prompt
from specs_lightning.scoring.answer_search import find_answer
from specs_lightning.scoring.benchmarks.rules import Ruling, said
from specs_lightning.scoring.boxes import iou, is_box
from specs_lightning.scoring.math_verify import Verdict
from specs_lightning.scoring.quantities import read_quantity

LONGEST_COMPARED = 1000
"""Characters that count where edits are counted."""
NOT_COUNTED = -1.0
"""Of a field that has no part in its question's score."""
Metric = Callable[[Any, Any], float]
"""Of an answer and the gold answer."""


def mega_bench(response: str, prompt: Prompt) -> Ruling:
    """MEGA-Bench: each field by its own metric, joined as the task says; no verdict where one is not read here."""
    golds: dict[str, Any] = json.loads(prompt.metadata["fields"])
    info = _literal(prompt.metadata.get("metric_info"))
    if not isinstance(info, dict):
        return Verdict(None, "metric_info is not readable")
    metrics = info.get("field_score_function", {})
    # the boxes of this one stand in the row's context, not in the gold answer
    point_in_box = partial(_point_in_box, context=_literal(prompt.metadata.get("eval_context")))
    rules = FIELD_METRICS | {"xml_norm_point_in_bbox": point_in_box}
    if foreign := sorted({str(metrics.get(name)) for name in golds} - rules.keys()):
        return Verdict(None, f"no rule for the metric {' and '.join(foreign)}")
    answers = _fields(said(response, prompt), golds, str(info.get("response_parse_function", "")))
    scores = {name: _score(rules[metrics[name]], answers.get(name), gold) for name, gold in golds.items()}
    return _joined({name: score for name, score in scores.items() if score >= 0}, info.get("aggregation") or {})


def _fields(text: str, golds: Mapping[str, Any], parse: str) -> Mapping[str, Any]:
    if "json" not in parse:
        return dict.fromkeys(golds, _behind_answer(text))
    fields = _last_json(text)
    return fields if isinstance(fields, dict) and fields else dict.fromkeys(golds, text)


def _score(metric: Metric, answer: Any, gold: Any) -> float:
    """0 of an answer that is missing, or of a kind that the metric cannot take."""
    try:
        score = float(metric(answer, gold)) if answer is not None else 0.0
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, ZeroDivisionError, OverflowError):
        return 0.0
    return 0.0 if math.isnan(score) else score


def _joined(scores: Mapping[str, float], joined: Mapping[str, Any]) -> Ruling:
    if not scores:
        return Verdict(None, "no field counts")
    if joined.get("function") == "min":
        return min(scores.values())
    weights: Mapping[str, float] = joined.get("field_weights") or {}
    total = sum(weights.get(name, 1.0) for name in scores)
    if not total:
        return Verdict(None, "fields without weight")
    return sum(weights.get(name, 1.0) * score for name, score in scores.items()) / total


def _behind_answer(text: str) -> str:
    text = _out_of_its_block(re.split(r"\*{0,2}[Aa]nswer:\*{0,2}", text)[-1].strip())
    value = _literal(text)
    return value if isinstance(value, str) else text.strip()


def _out_of_its_block(text: str) -> str:
    block = re.search(r"```\w*\s*(.*?)\s*```", text, re.DOTALL)
    return block[1] if block else text


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
    """The Python value that a text stands for; the text itself where it stands for none."""
    if not isinstance(text, str) or len(text) > 100_000:
        return text
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return text


def _items(value: Any) -> list[Hashable]:
    """The items of a list or set, given as one or in a text: in Python, or between commas, with brackets or without."""
    if isinstance(value, str):
        text = value.strip()
        bracketed = text[:1] in ("(", "[", "{")
        if not text or (bracketed and not text.endswith({"(": ")", "[": "]", "{": "}"}[text[0]])):
            return []
        value = _literal(text)
        if isinstance(value, str):
            return [item.strip() for item in (text[1:-1] if bracketed else value).split(",")]
    if value is None:
        return []
    return [_hashable(item) for item in value] if isinstance(value, list | tuple | set | dict) else [value]


def _hashable(value: Any) -> Hashable:
    if isinstance(value, dict):
        return frozenset((key, _hashable(item)) for key, item in value.items())
    return tuple(map(_hashable, value)) if isinstance(value, list | tuple) else value


def _mapping(value: Any) -> dict[Any, Any]:
    """A dictionary, given as one or in a text."""
    if isinstance(value, str):
        value = _last_json(value) or _literal(value)
    if not isinstance(value, dict):
        raise ValueError("no dictionary")
    return value


def _set(value: Any) -> set[Hashable]:
    return set(_items(value))


def _lines(value: Any) -> set[str]:
    return set(str(value).replace(r"\n", "\n").lower().split("\n"))


def _moves(value: Any) -> set[str]:
    """Of chess, whether or not they are marked as good or mate."""
    return {str(move).removesuffix("!").removesuffix("#") for move in _items(value)}


def _lowered(value: Any) -> Any:
    if isinstance(value, str):
        return value.lower()
    return [_lowered(item) for item in value] if isinstance(value, list | tuple | set) else value


def _boxes(value: Any) -> list[Sequence[float]]:
    value = _literal(value)
    if is_box(value):
        value = [value]
    return [box for box in value if is_box(box)] if isinstance(value, list | tuple) else []


def _between_tags(tag: str, value: Any) -> list[list[float]]:
    """The numbers between each pair of tags; numbers that stand alone count as one pair's."""
    if isinstance(value, list | tuple):
        return [list(value)]
    return [list(map(float, inside.split(","))) for inside in re.findall(rf"<{tag}>(.*?)</{tag}>", str(value))]


def _number(value: Any) -> float:
    value = _literal(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("no number")
    return value


def _exact(answer: Any, gold: Any) -> float:
    answer, gold = str(answer), str(gold)
    if len(gold) == 1 and gold.isalpha() and (letter := re.match(r"\(?([A-Za-z])", answer)):
        answer = letter[1]  # the first letter of whatever is said, as the benchmark has it
    return float(answer == gold)


def _simple(answer: Any, gold: Any) -> float:
    return _exact(*(re.sub(r"[ \-\n\t.]", "", str(value)).lower() for value in (answer, gold)))


def _edit_similarity(answer: Any, gold: Any) -> float:
    """1 less the share of characters to insert, delete, replace or swap with a neighbour (Damerau-Levenshtein)."""
    left, right = str(answer)[:LONGEST_COMPARED], str(gold)[:LONGEST_COMPARED]
    longest = max(len(left), len(right))
    return 1.0 - _edits(left, right) / longest if longest else 1.0


def _edits(left: str, right: str) -> int:
    most = len(left) + len(right)
    last_row: dict[str, int] = {}
    rows: list[list[int]] = [[most] * (len(right) + 2), [most, *range(len(right) + 1)]]
    for i, a in enumerate(left, 1):
        row, last_match = [most, i], 0
        for j, b in enumerate(right, 1):
            above, match_row, match_column = rows[i], last_row.get(b, 0), last_match
            if a == b:
                last_match = j
            swap = rows[match_row][match_column] + (i - match_row - 1) + 1 + (j - match_column - 1)
            row.append(min(above[j] + (a != b), row[j] + 1, above[j + 1] + 1, swap))
        last_row[a] = i
        rows.append(row)
    return rows[-1][-1]


def _near(answer: Any, gold: Any) -> float:
    """The similarity without accents, case and articles, 0 below 0.9."""
    similarity = _edit_similarity(*map(_without_accents, (answer, gold)))
    return similarity if similarity >= 0.9 else 0.0


def _without_accents(value: Any) -> str:
    words = " ".join(word for word in str(value).split(" ") if word.lower() not in ("the", "a"))
    apart = unicodedata.normalize("NFKD", words)
    return "".join(character for character in apart if not unicodedata.combining(character)).lower()


def _near_number(answer: Any, gold: Any) -> float:
    answer, gold = (re.split(r"=|≈|\\approx", str(value), maxsplit=1)[-1].strip() for value in (answer, gold))
    values = read_quantity(gold), read_quantity(answer)
    if values[0] is None or values[1] is None:
        return _simple(answer, gold)
    return abs(values[0].value - values[1].value) <= abs(values[0].value) / 100


def _near_number_in_a_box(answer: Any, gold: Any) -> float:
    boxed = [find_answer(str(value), "boxed") if r"\boxed" in str(value) else str(value) for value in (answer, gold)]
    return _near_number(*boxed)


def _relative_difference(said: float, right: float) -> float:
    return max(0.0, 1 - abs((said - right) / right))


def _positive_integer(answer: Any, gold: Any) -> float:
    if not isinstance(answer, int):
        return 0.0
    return NOT_COUNTED if answer <= 0 and gold <= 0 else answer == gold


def _close_number(said: float, right: float) -> float:
    return 1 - min(abs(said - right), 0.1) / 0.1


def _close_angles(said: list[float], right: list[float]) -> float:
    """1 less a tenth of the mean difference, in degrees."""
    if len(said) != len(right):
        return 0.0
    return 1 - min(sum(abs(a - b) for a, b in zip(said, right, strict=True)) / len(right), 10.0) / 10


def _same_places(said: list[Hashable], right: list[Hashable]) -> float:
    """The share of a list that is right, place by place; 0 of one of another length."""
    return sum(a == b for a, b in zip(said, right, strict=True)) / len(right)


def _common_start(said: list[Hashable], right: list[Hashable]) -> float:
    differing = (i for i, (a, b) in enumerate(zip(said, right, strict=False)) if a != b)
    return next(differing, min(len(said), len(right))) / len(right)


def _jaccard(said: set[Hashable], right: set[Hashable]) -> float:
    return len(said & right) / len(said | right) if said | right else 1.0


def _precision(said: set[Hashable], right: set[Hashable]) -> float:
    return len(said & right) / len(said) if said else 1.0


def _any_of(answer: Any, gold: Any) -> float:
    return max(_simple(answer, one) for one in _items(str(gold).replace("，", ",")))


def _in_code(answer: Any, gold: Any) -> float:
    return _exact(answer, _out_of_its_block(str(gold)))


def _dict_recall(said: dict[Any, Any], right: dict[Any, Any]) -> float:
    return sum(_exact(said.get(key, ""), value) for key, value in right.items()) / len(right)


def _dict_precision(said: dict[Any, Any], right: dict[Any, Any]) -> float:
    return sum(_exact(value, right[key]) for key, value in said.items() if key in right) / len(said)


def _over_keys(metric: Metric) -> Metric:
    """The mean over the keys of either dictionary; one that the other lacks is empty there."""

    def scored(said: dict[Any, Any], right: dict[Any, Any]) -> float:
        keys = said.keys() | right.keys()
        return sum(metric(said.get(key, []), right.get(key, [])) for key in keys) / len(keys)

    return _of(_mapping, scored)


def _best_overlap(said: list[Sequence[float]], right: list[Sequence[float]]) -> float:
    """The mean over the answer's boxes of the IoU with the gold box that each fits best."""
    return sum(max((iou(box, other) for other in right), default=0.0) for box in said) / len(said) if said else 0.0


def _overlap_in_order(said: list[Sequence[float]], right: list[Sequence[float]]) -> float:
    return sum(iou(a, b) for a, b in zip(said, right, strict=True)) / len(right)


def _point_distance(said: list[list[float]], right: list[list[float]]) -> float:
    for points in (said, right):
        if len(points) != 1 or len(points[0]) != 2 or not all(0 <= x <= 1 for x in points[0]):
            return 0.0
    return max(0.0, 1 - math.dist(said[0], right[0]))


def _point_in_box(answer: Any, gold: Any, context: Any) -> float:
    ((x, y),) = _between_tags("point", answer)
    boxes = [_boxes(box)[0] for box in context["bounding_boxes"]]
    return any(box[0] <= x <= box[2] and box[1] <= y <= box[3] for box in boxes)


def _near_points(answer: Any, gold: Any) -> float:
    """The mean over points of exp(-10 d), with the distance d in diagonals of the image."""
    distances = [math.dist(a, b) / math.sqrt(2) for a, b in zip(answer, gold, strict=True)]
    return sum(math.exp(-10 * distance) for distance in distances) / len(gold)


def _of(read: Callable[[Any], Any], metric: Metric) -> Metric:
    """A metric of what answer and gold answer stand for, as they are read."""
    return lambda answer, gold: metric(read(answer), read(gold))


_OVERLAP = _of(_boxes, _best_overlap)
FIELD_METRICS: dict[str, Metric] = {
    "exact_str_match": _exact,
    "exact_str_match_case_insensitive": _of(_lowered, _exact),
    "code_result_exact_str_match": _in_code,
    "simple_str_match": _simple,
    "multi_ref_phrase": _any_of,
    "near_str_match": _near,
    "normalized_similarity_damerau_levenshtein": _edit_similarity,
    "general_single_numerical_match": _near_number,
    "boxed_single_numerical_match": _near_number_in_a_box,
    "number_rel_diff_ratio": _of(_number, _relative_difference),
    "positive_int_match": _of(_literal, _positive_integer),
    "normalized_rmse": _of(_number, _close_number),
    "angle_seq_float_rmse": _of(lambda value: list(map(_number, _items(value))), _close_angles),
    "set_equality": _of(_set, operator.eq),
    "set_equality_case_insensitive": _of(_lowered, _of(_set, operator.eq)),
    "str_set_equality_comma": _of(_lowered, _of(_set, operator.eq)),
    "str_set_equality_line_break": _of(_lines, operator.eq),
    "set_precision": _of(_set, _precision),
    "jaccard_index": _of(_set, _jaccard),
    "jaccard_index_case_insensitive": _of(_lowered, _of(_set, _jaccard)),
    "chess_move_list_jaccard_index": _of(_moves, _jaccard),
    "sequence_equality": _of(_items, operator.eq),
    "sequence_equality_case_insensitive": _of(_lowered, _of(_items, operator.eq)),
    "sequence_accuracy_case_insensitive": _of(_lowered, _of(_items, _same_places)),
    "longest_common_list_prefix_ratio": _of(_items, _common_start),
    "sequence_coords_similarity": _of(_literal, _near_points),
    "dict_equality": _of(_mapping, operator.eq),
    "dict_precision": _of(_mapping, _dict_precision),
    "dict_exact_str_match_agg_recall": _of(_mapping, _dict_recall),
    "dict_set_equality_agg_jaccard": _over_keys(_of(_set, operator.eq)),
    "dict_jaccard_agg_jaccard": _over_keys(_of(_set, _jaccard)),
    "nbbox_iou_tuple": _OVERLAP,
    "nbbox_iou_single": _of(_boxes, _overlap_in_order),
    "nbbox_iou_sequence": _of(_boxes, _overlap_in_order),
    "dict_nbbox_iou_tuple_agg_jaccard": _over_keys(_OVERLAP),
    "xml_nbbox_iou_single": _of(partial(_between_tags, "box"), _OVERLAP),
    "xml_norm_point_distance": _of(partial(_between_tags, "point"), _point_distance),
}
"""The metrics of MEGA-Bench that are read here, with `xml_norm_point_in_bbox`."""
