"""The rule of MEGA-Bench: a response has fields, each with a metric of its own, and their scores are joined.

Of the benchmark's 45 metrics, those are read that compare by rule alone. The others ask a language model, the network,
a computer algebra system or a tokenizer of Chinese, or run code: a question with one of them has no verdict.
"""

from __future__ import annotations

import ast
import json
import math
import re
import unicodedata
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any

from specs_lightning.groups import Prompt
from specs_lightning.scoring.answer_formats import find_answer
from specs_lightning.scoring.benchmarks.rules import Judged, said
from specs_lightning.scoring.boxes import iou, is_box
from specs_lightning.scoring.math_verify import Verdict
from specs_lightning.scoring.quantities import read_quantity

LONGEST_COMPARED = 1000
"""Characters that count where edits are counted."""
NOT_COUNTED = -1.0
"""Of a field that has no part in its question's score."""


def mega_bench(response: str, prompt: Prompt) -> Judged:
    """MEGA-Bench: each field by its own metric, joined as the task says; no verdict where one is not read here."""
    golds: dict[str, Any] = json.loads(prompt.metadata["fields"])
    info = _literal(prompt.metadata.get("metric_info"))
    if not isinstance(info, dict):
        return Verdict(None, "metric_info is not readable")
    metrics = info.get("field_score_function", {})
    if foreign := sorted({str(metrics.get(name)) for name in golds} - FIELD_METRICS.keys() - {POINT_IN_BOX}):
        return Verdict(None, f"no rule for the metric {' and '.join(foreign)}")
    answers = _fields(said(response, prompt), golds, str(info.get("response_parse_function", "")))
    context = _literal(prompt.metadata.get("eval_context"))
    scores = {}
    for name, gold in golds.items():
        metric = (
            partial(_point_in_box, context=context) if metrics[name] == POINT_IN_BOX else FIELD_METRICS[metrics[name]]
        )
        scores[name] = _score(metric, answers.get(name), gold)
    return _joined({name: score for name, score in scores.items() if score >= 0}, info.get("aggregation") or {})


def _fields(text: str, golds: Mapping[str, Any], parse: str) -> Mapping[str, Any]:
    if "json" not in parse:
        return dict.fromkeys(golds, _behind_answer(text))
    fields = _last_json(text)
    return fields if isinstance(fields, dict) and fields else dict.fromkeys(golds, text)


def _score(metric: Callable[[Any, Any], float], answer: Any, gold: Any) -> float:
    """0 of an answer that is missing, or of a kind that the metric cannot take."""
    try:
        score = float(metric(answer, gold)) if answer is not None else 0.0
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, ZeroDivisionError, OverflowError):
        return 0.0
    return 0.0 if math.isnan(score) else score


def _joined(scores: Mapping[str, float], joined: Mapping[str, Any]) -> Judged:
    if not scores:
        return Verdict(None, "no field counts")
    if joined.get("function") == "min":
        return min(scores.values())
    weights: Mapping[str, float] = joined.get("field_weights") or {}
    total = sum(weights.get(name, 1.0) for name in scores)
    if not total:
        return Verdict(None, "fields without weight")
    return sum(weights.get(name, 1.0) * score for name, score in scores.items()) / total


# ------------------------------------------------------------------------------------------------------- reading


def _behind_answer(text: str) -> str:
    text = re.split(r"\*{0,2}[Aa]nswer:\*{0,2}", text)[-1].strip()
    text = _out_of_its_block(text)
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


def _boxes(value: Any) -> list[Sequence[float]]:
    value = _literal(value)
    if is_box(value):
        value = [value]
    return [box for box in value if is_box(box)] if isinstance(value, list | tuple) else []


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def _between_tags(tag: str, value: Any) -> list[list[float]]:
    """The numbers between each pair of tags; numbers that stand alone count as one pair's."""
    if isinstance(value, list | tuple):
        return [list(value)]
    return [_numbers(inside) for inside in re.findall(rf"<{tag}>(.*?)</{tag}>", str(value))]


def _number(value: Any) -> float:
    value = _literal(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("no number")
    return value


# ------------------------------------------------------------------------------------------------------- metrics


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


def _relative_difference(answer: Any, gold: Any) -> float:
    wanted = _number(gold)
    return max(0.0, 1 - abs((_number(answer) - wanted) / wanted))


def _positive_integer(answer: Any, gold: Any) -> float:
    answer, gold = _literal(answer), _literal(gold)
    if not isinstance(answer, int):
        return 0.0
    return NOT_COUNTED if answer <= 0 and gold <= 0 else answer == gold


def _close_number(answer: Any, gold: Any) -> float:
    return 1 - min(abs(_number(answer) - _number(gold)), 0.1) / 0.1


def _close_angles(answer: Any, gold: Any) -> float:
    """1 less a tenth of the mean difference, in degrees."""
    said, right = (list(map(_number, _items(value))) for value in (answer, gold))
    if len(said) != len(right):
        return 0.0
    return 1 - min(sum(abs(a - b) for a, b in zip(said, right, strict=True)) / len(right), 10.0) / 10


def _lower(metric: Callable[[Any, Any], float]) -> Callable[[Any, Any], float]:
    return lambda answer, gold: metric(_lowered(answer), _lowered(gold))


def _lowered(value: Any) -> Any:
    if isinstance(value, str):
        return value.lower()
    return [_lowered(item) for item in value] if isinstance(value, list | tuple | set) else value


def _same_set(answer: Any, gold: Any) -> float:
    return set(_items(answer)) == set(_items(gold))


def _same_lines(answer: Any, gold: Any) -> float:
    lines = [set(str(value).replace(r"\n", "\n").lower().split("\n")) for value in (answer, gold)]
    return lines[0] == lines[1]


def _same_sequence(answer: Any, gold: Any) -> float:
    return _items(answer) == _items(gold)


def _same_places(answer: Any, gold: Any) -> float:
    """The share of a list that is right, place by place; 0 of one of another length."""
    said, right = _items(_lowered(answer)), _items(_lowered(gold))
    return sum(a == b for a, b in zip(said, right, strict=True)) / len(right)


def _common_start(answer: Any, gold: Any) -> float:
    said, right = _items(answer), _items(gold)
    differing = (i for i, (a, b) in enumerate(zip(said, right, strict=False)) if a != b)
    return next(differing, min(len(said), len(right))) / len(right)


def _jaccard(answer: Any, gold: Any) -> float:
    left, right = set(_items(answer)), set(_items(gold))
    return len(left & right) / len(left | right) if left | right else 1.0


def _precision(answer: Any, gold: Any) -> float:
    left, right = set(_items(answer)), set(_items(gold))
    return len(left & right) / len(left) if left else 1.0


def _chess_moves(answer: Any, gold: Any) -> float:
    """Jaccard's index, whether or not a move is marked as good or mate."""
    moves = ([str(move).removesuffix("!").removesuffix("#") for move in _items(value)] for value in (answer, gold))
    return _jaccard(*moves)


def _any_of(answer: Any, gold: Any) -> float:
    return max(_simple(answer, one) for one in _items(str(gold).replace("，", ",")))


def _in_code(answer: Any, gold: Any) -> float:
    return _exact(answer, _out_of_its_block(str(gold)))


def _dict_recall(answer: Any, gold: Any) -> float:
    said, right = _mapping(answer), _mapping(gold)
    return sum(_exact(said.get(key, ""), value) for key, value in right.items()) / len(right)


def _dict_precision(answer: Any, gold: Any) -> float:
    said, right = _mapping(answer), _mapping(gold)
    return sum(_exact(value, right[key]) for key, value in said.items() if key in right) / len(said)


def _dict_equality(answer: Any, gold: Any) -> float:
    return _mapping(answer) == _mapping(gold)


def _over_keys(metric: Callable[[Any, Any], float]) -> Callable[[Any, Any], float]:
    """The mean over the keys of either dictionary; one that the other lacks is empty there."""

    def scored(answer: Any, gold: Any) -> float:
        said, right = _mapping(answer), _mapping(gold)
        keys = said.keys() | right.keys()
        return sum(metric(said.get(key, []), right.get(key, [])) for key in keys) / len(keys)

    return scored


def _best_overlap(answer: Any, gold: Any) -> float:
    """The mean over the answer's boxes of the IoU with the gold box that each fits best."""
    said, right = _boxes(answer), _boxes(gold)
    return sum(max((iou(box, other) for other in right), default=0.0) for box in said) / len(said) if said else 0.0


def _overlap_in_order(answer: Any, gold: Any) -> float:
    said, right = _boxes(answer), _boxes(gold)
    return sum(iou(a, b) for a, b in zip(said, right, strict=True)) / len(right)


def _overlap_in_tags(answer: Any, gold: Any) -> float:
    return _best_overlap(_between_tags("box", answer), _between_tags("box", gold))


def _point_distance(answer: Any, gold: Any) -> float:
    points = [_between_tags("point", value) for value in (answer, gold)]
    if any(len(found) != 1 or len(found[0]) != 2 or not all(0 <= x <= 1 for x in found[0]) for found in points):
        return 0.0
    return max(0.0, 1 - math.dist(points[0][0], points[1][0]))


def _point_in_box(answer: Any, gold: Any, context: Any) -> float:
    (point,) = _between_tags("point", answer)
    x, y = point
    boxes = [_boxes(box)[0] for box in context["bounding_boxes"]]
    return any(box[0] <= x <= box[2] and box[1] <= y <= box[3] for box in boxes)


def _near_points(answer: Any, gold: Any) -> float:
    """The mean over points of exp(-10 d), with the distance d in diagonals of the image."""
    said, right = _literal(answer), _literal(gold)
    return sum(math.exp(-10 * math.dist(a, b) / math.sqrt(2)) for a, b in zip(said, right, strict=True)) / len(right)


POINT_IN_BOX = "xml_norm_point_in_bbox"
"""Its boxes stand in the row's `eval_context`, not in the gold answer."""
FIELD_METRICS: dict[str, Callable[[Any, Any], float]] = {
    "exact_str_match": _exact,
    "exact_str_match_case_insensitive": _lower(_exact),
    "code_result_exact_str_match": _in_code,
    "simple_str_match": _simple,
    "multi_ref_phrase": _any_of,
    "near_str_match": _near,
    "normalized_similarity_damerau_levenshtein": _edit_similarity,
    "general_single_numerical_match": _near_number,
    "boxed_single_numerical_match": _near_number_in_a_box,
    "number_rel_diff_ratio": _relative_difference,
    "positive_int_match": _positive_integer,
    "normalized_rmse": _close_number,
    "angle_seq_float_rmse": _close_angles,
    "set_equality": _same_set,
    "set_equality_case_insensitive": _lower(_same_set),
    "str_set_equality_comma": _lower(_same_set),
    "str_set_equality_line_break": _same_lines,
    "set_precision": _precision,
    "jaccard_index": _jaccard,
    "jaccard_index_case_insensitive": _lower(_jaccard),
    "chess_move_list_jaccard_index": _chess_moves,
    "sequence_equality": _same_sequence,
    "sequence_equality_case_insensitive": _lower(_same_sequence),
    "sequence_accuracy_case_insensitive": _same_places,
    "longest_common_list_prefix_ratio": _common_start,
    "sequence_coords_similarity": _near_points,
    "dict_equality": _dict_equality,
    "dict_precision": _dict_precision,
    "dict_exact_str_match_agg_recall": _dict_recall,
    "dict_set_equality_agg_jaccard": _over_keys(_same_set),
    "dict_jaccard_agg_jaccard": _over_keys(_jaccard),
    "nbbox_iou_tuple": _best_overlap,
    "nbbox_iou_single": _overlap_in_order,
    "nbbox_iou_sequence": _overlap_in_order,
    "dict_nbbox_iou_tuple_agg_jaccard": _over_keys(_best_overlap),
    "xml_nbbox_iou_single": _overlap_in_tags,
    "xml_norm_point_distance": _point_distance,
}
"""The metrics of MEGA-Bench that are read here, with `POINT_IN_BOX`."""
