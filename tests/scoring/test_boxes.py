"""Boxes by hand: overlaps, which box counts for which, and what an answer may look like."""

from __future__ import annotations

import json

import pytest

from specs_lightning.groups import Prompt
from specs_lightning.scoring.boxes import Found, finds_objects, iou, mean_iou, read_boxes
from specs_lightning.scoring.comparison import check_gold, judge_by_rules
from specs_lightning.scoring.math_verify import Verdict


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ((0, 0, 2, 2), (0, 0, 2, 2), 1),
        ((0, 0, 2, 2), (1, 1, 3, 3), 1 / 7),
        ((0, 0, 4, 4), (1, 1, 3, 3), 0.25),
        ((0, 0, 2, 2), (2, 0, 4, 2), 0),  # they touch
        ((0, 0, 2, 2), (5, 5, 6, 6), 0),
        ((1, 1, 1, 1), (1, 1, 1, 1), 0),  # a point
    ],
)
def test_iou(one: tuple[float, ...], other: tuple[float, ...], expected: float) -> None:
    assert iou(one, other) == iou(other, one) == pytest.approx(expected)


def cat(*box: float) -> Found:
    return Found("cat", box)


def dog(*box: float) -> Found:
    return Found("dog", box)


@pytest.mark.parametrize(
    ("found", "gold", "expected"),
    [
        ([cat(0, 0, 2, 2)], [cat(0, 0, 2, 2)], 1),
        ([dog(0, 0, 2, 2)], [cat(0, 0, 2, 2)], 0),
        ([cat(0, 0, 2, 2), cat(0, 0, 2, 2)], [cat(0, 0, 2, 2)], 1 / 2),  # one too many
        ([cat(0, 0, 2, 2)], [cat(0, 0, 2, 2), cat(5, 5, 6, 6)], 1 / 2),  # one not found
        (
            [cat(0, 0, 2, 1), cat(0, 0, 2, 2)],
            [cat(0, 0, 2, 2), cat(0, 0, 4, 2)],
            (1 + 1 / 4) / 2,
        ),  # the best pair first
        ([], [cat(0, 0, 2, 2)], 0),
    ],
)
def test_mean_iou(found: list[Found], gold: list[Found], expected: float) -> None:
    assert mean_iou(found, gold) == pytest.approx(expected)


GOLD = json.dumps([{"bbox_2d": [0, 0, 10, 10], "label": "Red  cat"}])


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ('[{"bbox_2d": [0, 0, 10, 6], "label": "red cat"}]', True),
        ("[{'bbox_2d': [0, 0, 10, 5], 'label': 'red cat', 'confidence': 0.9}]", True),
        ('```json\n[{"bbox_2d": [0, 0, 10, 9], "label": "red cat"}]\n```', True),
        ('[{"bbox_2d": [0, 0, 10, 4], "label": "red cat"}]', False),
        ('[{"bbox_2d": [10, 10, 0, 0], "label": "red cat"}]', False),
        ('[{"bbox_2d": [0, 0, 10], "label": "red cat"}]', False),
        ('[{"bbox_2d": [0, 0, 10, true], "label": "red cat"}]', False),
        ('[{"bbox_2d": [0, 0, 10, 1e999], "label": "red cat"}]', False),
        ('[{"bbox_2d": [0, 0, 10, 10]}]', False),
        ("[0, 0, 10, 10]", False),
        ("[]", False),
        ("", False),
        ("[" * 10_000, False),
    ],
)
def test_an_answer_is_right_where_it_finds_the_objects(answer: str, right: bool) -> None:
    assert finds_objects(answer, GOLD) is right
    prompt = Prompt("p", (), answer=GOLD, answer_type="boxes")
    assert judge_by_rules(f"<think>There.</think>\n<answer>\n{answer}\n</answer>", prompt) == Verdict(right)


def test_boxes_everywhere_are_no_answer() -> None:
    grid = [{"bbox_2d": [x, y, x + 10, y + 10], "label": "red cat"} for x in range(30) for y in range(30)]
    assert read_boxes(json.dumps(grid)) is None
    assert not finds_objects(json.dumps(grid[:100]), GOLD)


def test_a_gold_answer_without_boxes_is_named() -> None:
    assert check_gold(GOLD, "boxes") is None
    assert "is no list of boxes with labels" in str(check_gold("7", "boxes"))
