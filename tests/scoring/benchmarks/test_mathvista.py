"""MathVista: what a response comes to is found as a reader would find it, and compared as the script does."""

from __future__ import annotations

import pytest
from helpers.benchmark_prompts import prompt

from specs_lightning.groups import Prompt
from specs_lightning.scoring.benchmarks.mathvista import distance, mathvista
from specs_lightning.scoring.math_verify import Verdict

OPTIONS = ("red apple", "green pear", "5.0")
SNAKES = ("a cat on a mat", "two dogs", "garter snakes would decrease a lot", "a bird")
CHANGES = ("increase", "decrease", "decrease a lot")
YES_NO = ("Yes", "No")


@pytest.mark.parametrize(
    ("question", "response", "right"),
    [
        (prompt("mathvista", "red apple", OPTIONS), "<answer>(A) red apple</answer>", True),
        (prompt("mathvista", "green pear", OPTIONS), "<answer>B</answer>", True),
        (prompt("mathvista", "green pear", OPTIONS), "The answer is gren pear.", True),
        (prompt("mathvista", "red apple", OPTIONS), "", False),
        (prompt("mathvista", "3", published_answer_type="integer"), r"\boxed{3.9}", True),
        (prompt("mathvista", "1.2", published_answer_type="float", precision=1), r"\boxed{1.23}", True),
        (prompt("mathvista", "1.2", published_answer_type="float", precision=1), r"\boxed{1.3}", False),
        (prompt("mathvista", "1", published_answer_type="integer"), "none of it", False),
        # labels and texts of options
        (prompt("mathvista", SNAKES[2], SNAKES), "(C) garter snakes would decrease a lot", True),
        (prompt("mathvista", SNAKES[2], SNAKES), "The correct option is (C).", True),
        (prompt("mathvista", SNAKES[2], SNAKES), "C is the correct answer.", True),
        (prompt("mathvista", SNAKES[2], SNAKES), "Without mice, the garter snakes would likely decrease a lot.", True),
        (prompt("mathvista", SNAKES[2], SNAKES), "The correct option is (B).", False),
        (prompt("mathvista", SNAKES[1], SNAKES), "B. I see two of them.", True),
        (prompt("mathvista", CHANGES[1], CHANGES), "If owls die out, mice will decrease.", True),
        (prompt("mathvista", CHANGES[2], CHANGES), "If owls die out, mice will decrease a lot.", True),
        (prompt("mathvista", "green pear", OPTIONS), "<answer>(B)</answer> or rather (A)", True),
        # an option that stands there twice, the gold by its first letter
        (prompt("mathvista", "B", ("5", "4", "4")), "<answer>B</answer>", True),
        (prompt("mathvista", "B", ("5", "4", "4")), "<answer>(C) 4</answer>", True),
        (prompt("mathvista", "B", ("5", "4", "4")), "The answer is 4.", True),
        (prompt("mathvista", "B", ("5", "4", "4")), "<answer>A</answer>", False),
        # yes and no, also where they are not said
        (prompt("mathvista", "No", YES_NO), "No, the larger window is not shaped like the smaller one.", True),
        (prompt("mathvista", "No", YES_NO), "Aqua is not the smallest. It is red.", True),
        (prompt("mathvista", "Yes", YES_NO), "Aqua is the smallest of all.", True),
        (prompt("mathvista", "Yes", YES_NO), "B. No, it does not.", False),
        (prompt("mathvista", "No", YES_NO), "(C) yes\n(D) no", True),
        # numbers
        (prompt("mathvista", "5", published_answer_type="integer"), "There are five apples left.", True),
        (prompt("mathvista", "5", published_answer_type="integer"), "There are 5 apples on the table near us.", True),
        (prompt("mathvista", "18", published_answer_type="integer"), "8 + 10 = 18.\n\nShe will spend $18.", True),
        (prompt("mathvista", "18", published_answer_type="integer"), "She will spend $10.", False),
        (prompt("mathvista", "18", published_answer_type="integer"), "<answer>between 18 and 19</answer>", False),
        (prompt("mathvista", "1.5", published_answer_type="float", precision=1), "It comes to 1.52 metres.", True),
        # nothing is found
        (prompt("mathvista", "5", published_answer_type="integer"), "The question cannot be answered.", False),
        (prompt("mathvista", SNAKES[2], SNAKES), "", False),
    ],
)
def test_a_response(question: Prompt, response: str, right: bool) -> None:
    assert mathvista(response, question) == Verdict(right)


def test_a_refusal_is_an_answer_to_the_script_which_takes_the_option_that_is_most_like_it() -> None:
    refusal = "The image does not show it. Therefore, I would need more."
    assert min(YES_NO, key=lambda option: distance("N/A", option)) == "No"
    assert mathvista(refusal, prompt("mathvista", "No", YES_NO)) == Verdict(True)
    assert mathvista(refusal, prompt("mathvista", "Yes", YES_NO)) == Verdict(False)


@pytest.mark.parametrize(("a", "b", "edits"), [("kitten", "sitting", 3), ("", "abc", 3), ("same", "same", 0)])
def test_edit_distance(a: str, b: str, edits: int) -> None:
    assert distance(a, b) == edits
