r"""Formats read back what they write and nothing else; `find_answer` reads answers in whatever form they stand."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specs_lightning.scoring.answer_formats import FORMATS, Parts, answer_format
from specs_lightning.scoring.answer_search import find_answer

# Prose as models write it, LaTeX and markup included, but without the formats' own marks.
_PIECES = st.sampled_from(
    ["x", "5", "B", " ", "\n", ".", ",", "$", "é", '"', "\\", "{3}", "\\frac{1}{2}", "a < b", "(D)"]
)
PROSE = st.lists(_PIECES, max_size=12).map(lambda pieces: "".join(pieces).strip())
ANSWERS = PROSE.filter(bool)


@pytest.mark.parametrize("name", FORMATS)
@given(reasoning=PROSE, answer=ANSWERS)
def test_what_is_written_is_read_back(name: str, reasoning: str, answer: str) -> None:
    text = answer_format(name).write(reasoning, answer)
    assert answer_format(name).read(text) == Parts(reasoning, answer)
    assert find_answer(text, name) == answer


@pytest.mark.parametrize("name", FORMATS)
@given(reasoning=PROSE, answer=ANSWERS)
def test_no_format_is_taken_for_another(name: str, reasoning: str, answer: str) -> None:
    text = answer_format(name).write(reasoning, answer)
    assert [other for other in FORMATS if answer_format(other).read(text) is not None] == [name]


@pytest.mark.parametrize("name", ["think_answer", "reasoning_solution"])
class TestTags:
    @pytest.fixture
    def tags(self, name: str) -> tuple[str, str, str, str]:
        return FORMATS[name].tags

    def test_space_around_the_parts_is_allowed(self, name: str, tags: tuple[str, ...]) -> None:
        text = " {}\n why \n{}\n\n {} 5 {}\n".format(*tags)
        assert FORMATS[name].read(text) == Parts("why", "5")

    @pytest.mark.parametrize("missing", range(4))
    def test_every_tag_is_needed(self, name: str, tags: tuple[str, ...], missing: int) -> None:
        text = FORMATS[name].write("why", "5")
        assert FORMATS[name].read(text.replace(tags[missing], "")) is None

    @pytest.mark.parametrize("twice", range(4))
    @pytest.mark.parametrize("place", ["beside", "in the reasoning", "in the answer"])
    def test_no_tag_may_stand_twice(self, name: str, tags: tuple[str, ...], twice: int, place: str) -> None:
        text = FORMATS[name].write("why", "5")
        doubled = {
            "beside": text.replace(tags[twice], tags[twice] * 2),
            "in the reasoning": FORMATS[name].write(f"why{tags[twice]}", "5"),
            "in the answer": FORMATS[name].write("why", f"5{tags[twice]}"),
        }[place]
        assert FORMATS[name].read(doubled) is None

    @pytest.mark.parametrize("around", ["So: {}", "{} Done.", "{}5"])
    def test_nothing_may_stand_around_it(self, name: str, tags: tuple[str, ...], around: str) -> None:
        assert FORMATS[name].read(around.format(FORMATS[name].write("why", "5"))) is None

    def test_nothing_may_stand_between_the_parts(self, name: str, tags: tuple[str, ...]) -> None:
        assert FORMATS[name].read("{}why{} so {}5{}".format(*tags)) is None

    def test_the_order_matters(self, name: str, tags: tuple[str, ...]) -> None:
        think, end_think, answer, end_answer = tags
        assert FORMATS[name].read(f"{answer}5{end_answer}{think}why{end_think}") is None
        assert FORMATS[name].read(f"{end_think}why{think}{answer}5{end_answer}") is None
        assert FORMATS[name].read(f"{think}why{answer}5{end_answer}{end_think}") is None

    @pytest.mark.parametrize("answer", ["", " \n"])
    def test_the_answer_must_not_be_empty(self, name: str, answer: str) -> None:
        assert FORMATS[name].read(FORMATS[name].write("why", answer)) is None


class TestBoxed:
    @pytest.mark.parametrize(
        "text", [r"So \boxed{5}", r"So $\boxed{5}$.", "So \\boxed{5}\n", r"So \boxed {5}", r"So \boxed  { 5 }."]
    )
    def test_the_box_stands_at_the_end(self, text: str) -> None:
        parts = FORMATS["boxed"].read(text)
        assert parts is not None and parts.answer == "5"
        assert parts.reasoning.rstrip(" $") == "So"

    def test_braces_nest(self) -> None:
        assert FORMATS["boxed"].read(r"\boxed{\frac{1}{2}}") == Parts("", r"\frac{1}{2}")

    @pytest.mark.parametrize(
        "text",
        [
            r"\boxed{5} is the answer",
            r"\boxed{5} \boxed{5}",
            r"\boxed{\boxed{5}}",
            r"\boxed{5",
            r"\boxed5",
            r"\boxed{}",
            r"\boxed{ }",
            r"\boxed",
            r"<think>why</think> \boxed{5}",
            "5",
            "",
        ],
    )
    def test_anything_else_is_refused(self, text: str) -> None:
        assert FORMATS["boxed"].read(text) is None


class TestJson:
    def test_numbers_are_answers(self) -> None:
        assert FORMATS["json"].read('{"answer": 5, "reasoning": "why"}') == Parts("why", "5")

    @pytest.mark.parametrize(
        "text",
        [
            '{"answer": "5"}',
            '{"reasoning": "why"}',
            '{"reasoning": "why", "answer": ""}',
            '{"reasoning": "why", "answer": null}',
            '{"reasoning": "why", "answer": "5", "more": 1}',
            'So {"reasoning": "why", "answer": "5"}',
            '{"reasoning": "why", "answer": "5"} Done.',
            '```json\n{"reasoning": "why", "answer": "5"}\n```',
            '{"reasoning": "why", "answer": "5"',
            '["reasoning", "answer"]',
            "5",
            "",
            "[" * 100_000,
        ],
    )
    def test_anything_else_is_refused(self, text: str) -> None:
        assert FORMATS["json"].read(text) is None


def test_an_unknown_format_is_named_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"'tags'.*think_answer, reasoning_solution, boxed, json"):
        answer_format("tags")


class TestFindAnswer:
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
    def test_it_is_found_in_whatever_form_it_stands(self, text: str, answer: str | None) -> None:
        assert find_answer(text) == answer

    def test_the_asked_format_comes_first(self) -> None:
        text = '{"reasoning": "not <answer>4</answer>", "answer": "5"}'
        assert find_answer(text, "json") == "5"
        assert find_answer(text, "think_answer") == "4"

    def test_the_order_is_tags_boxes_json_words(self) -> None:
        texts = ["Answer: 1", '{"answer": "2"}', r"\boxed{3}", "<answer>4</answer>"]
        for last in range(len(texts)):
            assert find_answer("\n".join(texts[last::-1])) == str(last + 1)


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
    "JSON nesting": '{"answer":' * 2_000,
}


@pytest.mark.parametrize("asked", FORMATS)
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_texts_are_read_at_once(name: str, asked: str) -> None:
    """A pattern of quadratic time takes seconds for 20,000 characters."""
    start = time.process_time()
    answer_format(asked).read(HOSTILE[name])
    find_answer(HOSTILE[name], asked)
    assert time.process_time() - start < 0.5


@given(st.text(alphabet=st.sampled_from('<>/{}"\\: \nanswerboxdi5')), st.sampled_from(list(FORMATS)))
def test_any_text_is_read_without_an_error(text: str, asked: str) -> None:
    found = find_answer(text, asked)
    assert found is None or found.strip() == found != ""


def test_json_keeps_latex_commands_whole():
    written = r'{"reasoning": "halve it\nthen \times 2", "answer": "\frac{1}{2} \times 3"}'
    assert answer_format("json").read(written) == Parts("halve it\nthen \\times 2", r"\frac{1}{2} \times 3")
    assert find_answer(written, "json") == r"\frac{1}{2} \times 3"
