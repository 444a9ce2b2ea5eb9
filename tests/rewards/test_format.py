"""The format reward: 1 for what the asked format reads strictly, and nothing else."""

import pytest

from specs_lightning.groups import Completion
from specs_lightning.rewards import FormatReward

GOOD = "<think>so 1</think><answer>1</answer>"


@pytest.mark.parametrize(
    ("text", "answer_format", "reward"),
    [
        (GOOD, "think_answer", 1.0),
        (GOOD, "boxed", 0.0),
        (GOOD.removesuffix("</answer>"), "think_answer", 0.0),
        ("1", "think_answer", 0.0),
        ("", "think_answer", 0.0),
        (r"so \boxed{1}", "boxed", 1.0),
        ('{"reasoning": "so 1", "answer": "1"}', "json", 1.0),
    ],
)
def test_the_asked_format_decides(ask, reply, text, answer_format, reward):
    assert FormatReward()([ask(answer_format=answer_format)], [reply(text)]).tolist() == [reward]


def test_a_truncated_completion_does_not_keep_the_format(ask, reply):
    assert FormatReward()([ask()], [reply(GOOD, finished=False)]).tolist() == [0.0]


def test_a_wrong_answer_in_the_right_format_earns_it(ask, reply):
    assert FormatReward()([ask("2")], [reply(GOOD)]).tolist() == [1.0]


@pytest.mark.parametrize(
    ("text", "answer_format", "reward"),
    [
        ("<think>\nso 1</think><answer>1</answer>", "think_answer", 1.0),
        ("<think>\n<think>so 1</think><answer>1</answer>", "think_answer", 0.0),
        ("<think>\nso 1", "think_answer", 0.0),
        ("<think>\nso 1</think>\n\\boxed{1}", "boxed", 1.0),
        ("<think>\nso \\boxed{1}", "boxed", 0.0),
        ('<think>\nlet me see</think>\n{"reasoning": "so 1", "answer": "1"}', "json", 1.0),
        ("<think>\nhm</think>\n<reasoning>so 1</reasoning><solution>1</solution>", "reasoning_solution", 1.0),
        ("<think>\nhm</think>\n<answer>1</answer>", "reasoning_solution", 0.0),
    ],
)
def test_a_tag_that_the_template_opens_belongs_to_the_response(ask, text, answer_format, reward):
    said = Completion((), (), text, True, opened="<think>\n")
    assert FormatReward()([ask(answer_format=answer_format)], [said]).tolist() == [reward]
