r"""Answers are found in whatever form they stand, at once, and only where there is one."""

from __future__ import annotations

import pytest
from helpers.cpu_time import cpu_seconds
from hypothesis import given
from hypothesis import strategies as st

from specs_lightning.scoring.answer_formats import FORMATS, answer_format
from specs_lightning.scoring.answer_search import find_answer, in_tags, last_sentence


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        # tags
        ("<answer>5</answer>", "5"),
        ("why</think> <answer> 5 </answer> Done.", "5"),
        ("<answer>4</answer> no, <answer>5</answer>", "5"),
        ("<answer>4 <answer>5</answer>", "5"),
        ("<reasoning>why</reasoning><solution>5</solution>", "5"),
        ("<answer></answer>", None),
        # boxes
        (r"So \boxed{4}, no, \boxed{5}", "5"),
        (r"So \boxed {5}.", "5"),
        (r"So \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"So \boxed{5}. In full: \boxed{5 app", "5"),
        (r"So \boxed{5} as asked in \boxed{}", "5"),
        (r"So \boxed{\text{red", None),
        (r"{ So \boxed{5}", "5"),
        # JSON
        ('So: {"answer": "5"}', "5"),
        ('```json\n{"reasoning": "why", "answer": 5}\n```', "5"),
        ('{"answer": 5, "reasoning": "why"', "5"),
        ('{"answer": "\\\\frac{1}{2}"} Done.', r"\frac{1}{2}"),
        ('{"answer": "\\sqrt{2}"} Done.', r"\sqrt{2}"),
        ('{"answer": "\\frac{1}{2}"} Done.', r"\frac{1}{2}"),
        ('So {"answer": "a \\"b\\" c"}', 'a "b" c'),
        ('{"reasoning": "why", "answer": "5', "5"),
        # words
        ("Two and three, so the answer is 5", "5"),
        ("The answer is 5. Let me check.", "5"),
        ("The answer is 3.5. Let me check.", "3.5"),
        ("The answer is 3.5", "3.5"),
        ("The answer is (D). It is blue.", "(D)"),
        ("The answer is (D).", "(D)"),
        ("The answer is C. 12", "C. 12"),
        ("The answer is **5**. Let me check.", "5"),
        ("The answer is 50%. Let me check.", "50%"),
        ("The answer is: 5", "5"),
        ("Answer: 5", "5"),
        ("**Answer:** 5", "5"),
        ("Final answer:\n\n5", "5"),
        ("The answer is\n5", "5"),
        ("The answer is 4.\nNo, the answer is 5.", "5"),
        ("The answer is 5. This answer is right.", "5"),
        ("<think>The answer is 4.</think>\nAnswer: 5", "5"),
        ("An answer isn't easy.\n5", "5"),
        # the last line
        ("Two and three are five:\n5", "5"),
        ("Two and three.\n\n(B) red.\n", "(B) red"),
        ("<think>why</think>5", "5"),
        ("Two and three are five, are they not?", None),
        ("", None),
        (" \n", None),
    ],
)
def test_it_is_found_in_whatever_form_it_stands(text: str, answer: str | None) -> None:
    assert find_answer(text) == answer


def test_the_asked_format_comes_first() -> None:
    text = '{"reasoning": "not <answer>4</answer>", "answer": "5"}'
    assert find_answer(text, "json") == "5"
    assert find_answer(text, "think_answer") == "4"


def test_the_order_is_tags_boxes_json_words() -> None:
    texts = ["Answer: 1", '{"answer": "2"}', r"\boxed{3}", "<answer>4</answer>"]
    for last in range(len(texts)):
        assert find_answer("\n".join(texts[last::-1])) == str(last + 1)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The correct option is (C).", "(C)"),
        ("The correct answer should be (C).", "(C)"),
        ("The best choice would be B", "B"),
        ("C is the correct answer.", "C"),
        ("(C) is correct, as the snake is longer.", "(C)"),
        ("The answer is C because snakes eat mice.", "C"),
        ("The answer to the question is 12 cm, since both sides count.", "12 cm"),
        ("The correct answer is:\n- **Answer:** C", "C"),
        ("\\[\n\\text{Answer: C}\n\\]", "C}"),
        ("因此，正确答案是 C。", "C。"),
        ("答案：C", "C"),
        ("所以故选B", "B"),
        ("The value is 5", "5"),
        ("The area of the whole triangle is 12 cm^2.", "12 cm^2"),
        ("There are 5 apples in the red basket.", "5 apples in the red basket"),
        ("Adding both gives x = 7.", "7"),
        ("First the answer is 4. Checking again, therefore the number of edges is 6", "6"),
        ("In all, it is 5 km. I hope this helps!", None),
        ("In all, it is 5 km.\nLet me know if anything else is unclear!", "5 km"),
        ("<answer>C", "C"),
        ("<think>x<answer>C</answer>", "C"),
        ("It is shown in <image3>", "shown in <image3>"),
    ],
)
def test_answers_are_announced_in_many_words(text: str, answer: str | None) -> None:
    assert find_answer(text) == answer


def test_a_question_at_the_end_states_nothing() -> None:
    assert last_sentence("It is five. Is the second one larger than it is?") is None
    assert (
        last_sentence("It is five! I hope this helps.\nThe end is here. So all are possible.") == "So all are possible"
    )


def test_the_last_pair_of_tags_counts_or_the_one_that_is_open() -> None:
    assert in_tags("<answer>4</answer> <answer>5</answer>") == "5"
    assert in_tags("<think>a</think> <answer> 5") == "5"
    assert in_tags("no tags") is None


HOSTILE = {
    "words, then nothing": "answer is" + "\n" * 20_000,
    "words, then colons": "answer" + ":" * 20_000,
    "a word, then spaces": "answer" + " " * 20_000,
    "words without end": "answer is " * 2_000,
    "full stops": "answer: " + "12. " * 5_000,
    "opening tags": "<answer>" * 2_500,
    "an opening tag": "<answer>" + "x" * 20_000,
    "closing tags": "</answer>" * 2_200,
    "tags without end": "<" * 20_000,
    "a tag name without end": "<" + "a" * 20_000,
    "well-formed but for the end": "<think></think>" + " " * 20_000 + "<answer>5</answer>" + " " * 20_000 + "x",
    "spaces first": " " * 20_000 + "<think></think><answer></answer>",
    "boxes without end": r"\boxed{" * 2_900,
    "boxes in boxes": r"\boxed{" * 2_500 + "}" * 2_500,
    "a box, then spaces": (r"\boxed" + " " * 10_000) * 2,
    "braces": r"\boxed" + "{" * 20_000,
    "closing braces": r"\boxed{5" + "}" * 20_000,
    "JSON keys": '"answer":' * 2_200,
    "JSON key, then spaces": '"answer"' + " " * 20_000,
    "JSON strings without end": '"answer":"\\' * 1_800,
    "JSON escapes": '"answer":"' + "\\\\" * 10_000,
    "an announcement, then spaces": "the answer is" + " " * 20_000 + "5",
    "conclusions": "therefore " * 2_000 + "= " * 2_000,
    "labels": "(A) is " * 3_000,
    "numbers come to": "so " + "is 5 " * 4_000,
    "a sentence of copulas": "is are = " * 2_500,
    "courtesies": "hope this " * 2_000,
    "Chinese announcements": "答案是" * 6_000,
    "JSON nesting": '{"answer":' * 2_000,
}


@pytest.mark.parametrize("asked", FORMATS)
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_texts_are_read_at_once(name: str, asked: str) -> None:
    """A pattern of quadratic time takes seconds for 20,000 characters."""
    assert cpu_seconds(lambda: answer_format(asked).read(HOSTILE[name])) < 0.25
    assert cpu_seconds(lambda: find_answer(HOSTILE[name], asked)) < 0.25


@given(st.text(alphabet=st.sampled_from('<>/{}"\\: \nanswerboxdi5')), st.sampled_from(list(FORMATS)))
def test_any_text_is_read_without_an_error(text: str, asked: str) -> None:
    found = find_answer(text, asked)
    assert found is None or found.strip() == found != ""
