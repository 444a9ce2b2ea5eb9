"""Each corruption spoils the format, and the format alone."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from specs_lightning.scoring.answer_formats import FORMATS, TagFormat
from specs_lightning.scoring.answer_search import find_answer
from specs_lightning.scoring.corruptions import CORRUPTIONS, corrupt

THINK = FORMATS["think_answer"]
WELL_FORMED = "<think>\nTwo red, three blue.\n</think>\n<answer>\n5\n</answer>"
CORRUPTED = {
    "strip_all_tags": "Two red, three blue.\n\n\n5",
    "strip_answer_tags": "<think>\nTwo red, three blue.\n</think>\n\n5",
    "strip_reasoning_tags": "Two red, three blue.\n\n<answer>\n5\n</answer>",
    "close_reasoning_last": "<think>\nTwo red, three blue.\n\n\n5</think>",
    "announce_answer": "<think>\nTwo red, three blue.\n</think>\nAnswer:\n5",
}
ON_ONE_LINE = "<think>Two red, three blue.</think><answer>5</answer>"
CORRUPTED_ON_ONE_LINE = {
    "strip_all_tags": "Two red, three blue.5",
    "strip_answer_tags": "<think>Two red, three blue.</think>5",
    "strip_reasoning_tags": "Two red, three blue.<answer>5</answer>",
    "close_reasoning_last": "<think>Two red, three blue.5</think>",
    "announce_answer": "<think>Two red, three blue.</think>Answer:5",
}


def test_there_are_the_papers_five() -> None:
    assert list(CORRUPTIONS) == list(CORRUPTED) == list(CORRUPTED_ON_ONE_LINE)


@pytest.mark.parametrize("name", CORRUPTED)
class TestEach:
    def test_the_text_is_exactly_as_expected(self, name: str) -> None:
        assert CORRUPTIONS[name](WELL_FORMED, THINK) == CORRUPTED[name]
        assert CORRUPTIONS[name](ON_ONE_LINE, THINK) == CORRUPTED_ON_ONE_LINE[name]

    def test_other_tag_names_are_treated_alike(self, name: str) -> None:
        solution: TagFormat = FORMATS["reasoning_solution"]

        def renamed(text: str) -> str:
            return text.replace("think>", "reasoning>").replace("answer>", "solution>")

        assert CORRUPTIONS[name](renamed(WELL_FORMED), solution) == renamed(CORRUPTED[name])

    @pytest.mark.parametrize("text", [WELL_FORMED, ON_ONE_LINE])
    def test_no_format_is_kept(self, name: str, text: str) -> None:
        corrupted = CORRUPTIONS[name](text, THINK)
        assert all(answer_format.read(corrupted) is None for answer_format in FORMATS.values())

    def test_the_answer_on_a_line_of_its_own_is_still_found(self, name: str) -> None:
        assert find_answer(CORRUPTIONS[name](WELL_FORMED, THINK)) == "5"
        assert find_answer(CORRUPTIONS[name](THINK.write("Two red, three blue.", "5"), THINK)) == "5"

    def test_the_answer_on_the_reasonings_line_is_found_where_something_still_parts_them(self, name: str) -> None:
        """Where both are run together without a tag between, no reader could tell them apart."""
        run_together = name in ("strip_all_tags", "close_reasoning_last")
        found = find_answer(CORRUPTIONS[name](ON_ONE_LINE, THINK))
        assert found == ("Two red, three blue.5" if run_together else "5")


class TestDraw:
    def test_all_five_are_drawn_equally_often_and_named(self) -> None:
        rng = random.Random(0)
        drawn = [corrupt(WELL_FORMED, THINK, rng) for _ in range(2000)]
        assert all(text == CORRUPTED[name] for text, name in drawn)
        counts = Counter(name for _, name in drawn)
        assert set(counts) == set(CORRUPTIONS)
        assert all(abs(count - 400) < 90 for count in counts.values())  # five standard deviations

    def test_the_draw_is_the_generators(self) -> None:
        first, again = ([corrupt(WELL_FORMED, THINK, random.Random(s)) for s in range(20)] for _ in range(2))
        assert first == again

    def test_only_the_named_ones_are_drawn(self) -> None:
        rng = random.Random(0)
        names = ["announce_answer", "strip_all_tags"]
        assert {corrupt(WELL_FORMED, THINK, rng, names)[1] for _ in range(50)} == set(names)

    @pytest.mark.parametrize("text", ["5", "", "<think>why</think>5", WELL_FORMED + "!"])
    def test_what_has_no_format_cannot_lose_it(self, text: str) -> None:
        with pytest.raises(ValueError, match="not in the format"):
            corrupt(text, THINK, random.Random(0))
