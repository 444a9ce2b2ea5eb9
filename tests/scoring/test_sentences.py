r"""Reasoning is whole sentences: nothing is left of what introduced or delimited the answer."""

from __future__ import annotations

import pytest
from helpers.cpu_time import cpu_seconds

from specs_lightning.scoring.sentences import has_delimiter, sentences_before, whole_sentences

WHOLE = "Three are red. Two are blue, so there are 5."


class TestWholeSentences:
    @pytest.mark.parametrize(
        "end",
        [
            " The answer is",
            " So the area is",
            "\nTherefore:",
            "\n**Final Answer:**",
            "\n### Answer",
            "\n3.",
            " so",
            "\nThat makes 3 + 2 =",
            " The width (",
            "\n$$",
            "\nHence, the",
            " Thus,\n\n",
            "\n5",
            "\n<answer>",
            "\nAnswer: </think>",
        ],
    )
    def test_an_end_without_an_end_is_cut_off(self, end: str) -> None:
        assert whole_sentences(WHOLE + end, "5") == WHOLE

    @pytest.mark.parametrize(
        "text",
        [
            WHOLE,
            "a1 red circle 1 ; b2 blue square 1 ; so 1",
            "3 red\n2 blue\n3 + 2 = 5",
            "Is it red? Yes!",
            "The angle is 3.5 degrees.",
            "It costs $5.",
            "We use a property of polygons, e.g. that of squares.",
            "So the answer is 5.",  # a whole sentence, and the response's own
            "红色三个，蓝色两个。一共五个。",
        ],
    )
    def test_whole_ones_stay_as_they_are(self, text: str) -> None:
        assert whole_sentences(text, "7") == text

    def test_several_unfinished_lines_go_together(self) -> None:
        assert whole_sentences(WHOLE + "\nSo\nwe have\n**Answer**\n", "5") == WHOLE

    @pytest.mark.parametrize("text", ["", "so", "The answer is", "5", "1.", "**Answer:**", "<think>"])
    def test_nothing_is_left_of_what_has_no_sentence(self, text: str) -> None:
        assert whole_sentences(text, "5") == ""

    def test_tags_and_boxes_leave_nothing(self) -> None:
        assert whole_sentences(r"<think>So \boxed{\frac{1}{2}} it is.</think>", "7") == r"So \frac{1}{2} it is."
        assert whole_sentences(r"So \boxed{ never closes.", "7") == ""

    def test_a_quote_that_never_closes_is_a_part_of_some_json(self) -> None:
        assert whole_sentences('"it looks like 2.', "2") == ""


class TestSentencesBefore:
    @pytest.mark.parametrize(
        "introduction",
        [
            r" So the area is \boxed{",
            r" So the area \boxed{",
            " The answer is ",
            "\nAnswer: ",
            "\n**Answer:** ",
            " The correct option is (",
            "\nFinal answer:\n\n$$\\boxed{",
            "\nSo the answer is 7.\nAnswer: ",
            "\n7\nAnswer: ",
            "\n",
            " ",
        ],
    )
    def test_what_introduces_the_answer_is_left_out(self, introduction: str) -> None:
        assert sentences_before(WHOLE + introduction, "7") == WHOLE

    def test_a_sentence_that_says_the_answer_itself_is_kept(self) -> None:
        assert sentences_before(r"a1 red 1 ; so 1 \boxed{", "1") == "a1 red 1 ; so 1"
        assert sentences_before(r"a1 red 1 ; so 2 \boxed{", "1") == ""

    def test_a_number_within_another_is_not_the_answer(self) -> None:
        assert sentences_before(r"There are 15 \boxed{", "5") == ""
        assert sentences_before("We add. The answer is 15.\nAnswer: ", "5") == "We add. The answer is 15."


@pytest.mark.parametrize("text", ['no"}', "is blue no0}", '{"no', "<solution>5", r"\boxed{5", 'a "b'])
def test_what_is_left_of_a_delimiter_is_seen(text: str) -> None:
    assert has_delimiter(text)


@pytest.mark.parametrize("text", ["no", r"\frac{1}{2}", "x < 3", '"red" and "blue"', "{1, 2}", r"\left\{ x \right."])
def test_what_an_answer_may_hold_is_no_delimiter(text: str) -> None:
    assert not has_delimiter(text)


@pytest.mark.parametrize(
    "piece", [" ", "(", "!", "\n", "$", "{", r"\boxed{", "so ", "so\n", "The answer is 5.\n", "<a", '"', "1."]
)
def test_degenerate_text_takes_no_time(piece: str) -> None:
    text = piece * (200_000 // len(piece))

    def read() -> None:
        for function in (whole_sentences, sentences_before):
            function(text, "5")
            function(text + "x", "5")

    assert cpu_seconds(read) < 2
