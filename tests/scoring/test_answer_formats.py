"""Formats read back what they write and nothing else."""

from __future__ import annotations

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


OF_ONES_OWN = ("tags:plan,reply", "brackets:think,answer", "json:steps,result", "headings", "headings:Plan,Reply")
OF_A_LINE = ("line", "line:Result")


@pytest.mark.parametrize("name", [*FORMATS, *OF_ONES_OWN])
@given(reasoning=PROSE, answer=ANSWERS)
def test_what_is_written_is_read_back(name: str, reasoning: str, answer: str) -> None:
    text = answer_format(name).write(reasoning, answer)
    assert answer_format(name).read(text) == Parts(reasoning, answer)
    assert find_answer(text, name) == answer


@pytest.mark.parametrize("name", OF_A_LINE)
@given(reasoning=PROSE, answer=ANSWERS)
def test_an_answer_of_one_line_is_read_back(name: str, reasoning: str, answer: str) -> None:
    text = answer_format(name).write(reasoning, answer)
    parts = None if "\n" in answer else Parts(reasoning, answer)
    assert answer_format(name).read(text) == parts
    assert parts is None or find_answer(text, name) == answer


@pytest.mark.parametrize("name", [*FORMATS, *OF_ONES_OWN, *OF_A_LINE])
@given(reasoning=PROSE, answer=ANSWERS)
def test_no_format_is_taken_for_another(name: str, reasoning: str, answer: str) -> None:
    text = answer_format(name).write(reasoning, answer)
    others = [*FORMATS, *OF_ONES_OWN, *OF_A_LINE]
    assert {other for other in others if answer_format(other).read(text) is not None} <= {name}


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
        assert FORMATS["boxed"].read(text) == Parts("So", "5")

    @pytest.mark.parametrize(
        "text", [r"So \[\boxed{5}\]", r"So $$ \boxed{5}. $$", r"So \( \boxed{5} \).", "So\n\\[\n\\boxed{5}\n\\]"]
    )
    def test_display_maths_around_the_box_belongs_to_neither_part(self, text: str) -> None:
        assert FORMATS["boxed"].read(text) == Parts("So", "5")

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
    with pytest.raises(ValueError, match=r"'tagz'.*think_answer, reasoning_solution, boxed, json"):
        answer_format("tagz")


def test_json_keeps_latex_commands_whole():
    written = r'{"reasoning": "halve it\nthen \times 2", "answer": "\frac{1}{2} \times 3"}'
    assert answer_format("json").read(written) == Parts("halve it\nthen \\times 2", r"\frac{1}{2} \times 3")
    assert find_answer(written, "json") == r"\frac{1}{2} \times 3"
