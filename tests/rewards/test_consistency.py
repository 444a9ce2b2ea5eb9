"""Consistency as a reward: reasoning and answer are found in whatever form they stand."""

import pytest

from specs_lightning.rewards import ConsistencyReward


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("<think>so 1</think><answer>1</answer>", 1.0),
        ("<think>so 1</think><answer>2</answer>", 0.0),
        ("<reasoning>so 1</reasoning><solution>1</solution>", 1.0),
        ("<think>so 1</think>\nAnswer: 1", 1.0),
        ("so 1\nAnswer: 1", 1.0),
        (r"We add, so 1 + 1 = 2. \boxed{2}", 1.0),
        (r"We add, so 1 + 1 = 2. \boxed{3}", 0.0),
        ("<answer>1</answer>", 0.0),
        ("I do not know what to say about this picture", 0.0),
        ("", 0.0),
    ],
)
def test_parts_are_found_in_any_form(ask, reply, text, reward):
    assert ConsistencyReward()([ask("7")], [reply(text)]).tolist() == [reward]
