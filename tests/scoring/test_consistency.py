"""Consistency: the reasoning's last conclusion is the answer, or the response is not consistent."""

import pytest

from specs_lightning.rewards import is_consistent
from specs_lightning.scoring.consistency import read_parts

OPTIONS = ("square", "square root", "circle")


@pytest.mark.parametrize(
    ("reasoning", "answer", "consistent"),
    [
        ("a1 red circle 1 ; b2 blue square 1 ; so 1", "1", True),
        ("a1 red circle 1 ; b2 blue square 1 ; so 1", "2", False),
        ("a1 red ; b2 blue", "2", False),  # the 2 of b2 is no number
        ("2 red, 3 blue ; so 3 > 2 ; so yes", "yes", True),
        ("2 red, 3 blue ; so yes", "no", False),
        ("There are 3 circles and 2 squares, so 3 + 2 = 5.", "5", True),
        ("So there are 5 shapes in the 3x3 grid.", "5", True),
        ("So 4 are left, which is the answer.", "4", True),
        ("5-3=2", "2", True),
        ("x = -2", "2", False),
        (r"thus the ratio is \frac{1}{2}", "0.5", True),
        ("so it costs 1,234", "1234", True),
        ("one, two, 3", "3", True),
        ("I count the shapes.", "3", False),
        ("", "3", False),
        ("so 3", "", False),
        ("so the left one is red", "red", True),
        ("so the left one is red", "blue", False),
        ("the one that bordered it", "red", False),
        (r"so the area is 9 \pi", r"9\pi", True),
        ("no, wait; so true", "yes", True),
    ],
)
def test_the_conclusion_decides(reasoning, answer, consistent):
    assert is_consistent(reasoning, answer) is consistent


@pytest.mark.parametrize(
    ("reasoning", "answer", "consistent"),
    [
        ("it has four sides, so it is a square", "A", True),
        ("so it is a square", "(A) square", True),
        ("so the square root", "B", True),
        ("so the square root", "A", False),
        ("not (A), so (C)", "circle", True),
        ("so c", "C", True),
        ("(A) fails. (B) fails.", "C", False),
        ("looking at it", "C", False),
    ],
)
def test_letters_and_option_texts_are_one(reasoning, answer, consistent):
    assert is_consistent(reasoning, answer, "choice", OPTIONS) is consistent


class TestReadParts:
    """Reasoning is read in whole sentences, whatever form the response has."""

    REASONING = "Three are red. Two are blue, so 5."

    @pytest.mark.parametrize(
        "response",
        [
            "<think>{}</think><answer>5</answer>",
            "<reasoning>{}</reasoning>\n<solution>5</solution>",
            "<think>\n{}\n</think>\nAnswer: 5",
            "<think>{}</think>\n5",
            "{}</think>\n<answer>5</answer>",
            "<think>{}\n5</think>",
            "<think>{}<answer>5</answer>",
            "{}\n<answer>5</answer>",
            "{} <answer>5</answer>",
            "{}\nThe answer is 5.",
            "{}\nAnswer:5",
            "{} So the answer is 5.\nAnswer: 5",
            r"{} So the area is \boxed{{5}}",
            r"{} The answer is \boxed{{5}}.",
            r"{} \boxed{{5}}",
            "{}\n\n$$\\boxed{{5}}$$",
            '{{"reasoning": "{}", "answer": "5"}}',
            '```json\n{{"reasoning": "{}", "answer": "5"}}\n```',
            '{{"reasoning": "{}", "answer": 5',
            "{}\n5",
            "<think>{} The answer is</think><answer>5</answer>",
            "<think>{} So \\boxed{{</think><answer>5</answer>",
        ],
    )
    def test_nothing_is_left_of_what_gave_the_answer(self, response: str) -> None:
        assert read_parts(response.format(self.REASONING), "think_answer") == (self.REASONING, "5")

    @pytest.mark.parametrize("response", [r"So the area is \boxed{5}", "The answer is 5", "5", "<think></think>\n5"])
    def test_there_may_be_no_reasoning(self, response: str) -> None:
        assert read_parts(response, "think_answer") == ("", "5")

    def test_there_may_be_no_answer(self) -> None:
        assert read_parts("I look at the picture and see a lot of things", "think_answer") is None

    def test_json_of_other_keys_has_no_reasoning(self) -> None:
        assert read_parts('{"thought": "Two. So 2.", "answer": "2"}', "think_answer") == ("", "2")

    def test_the_latex_of_a_json_string_is_whole(self) -> None:
        parts = read_parts('Here: {"reasoning": "so \\frac{1}{2}.", "answer": "\\frac{1}{2}"}', "think_answer")
        assert parts == (r"so \frac{1}{2}.", r"\frac{1}{2}")
