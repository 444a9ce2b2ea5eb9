"""A pair's sides differ in their format alone: words do not tell them apart."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any

import pytest
from helpers.distilling import SAYS_2, THINK, UNTAGGED

from benchmarks.tell_pairs_apart import tell_apart, words
from specs_lightning.distill.pair_maker import PairMaker, PairSettings, word_distance
from specs_lightning.groups import Completion, Prompt
from specs_lightning.records.pairs import PreferencePair
from specs_lightning.rewards import AccuracyReward
from specs_lightning.scoring.corruptions import CORRUPTIONS
from specs_lightning.toy import habits, scenes

Make = Callable[..., PreferencePair | str]


@pytest.fixture
def make() -> Any:
    """The pair of a prompt, given what each model says."""
    accuracy = AccuracyReward()

    def run(zero: list[str], base: list[str], opened: str = "", prompt: Prompt | None = None, **settings: Any) -> Any:
        asked = prompt or Prompt("p", ({"role": "user", "content": "?"},), answer="2", answer_type="number")
        models = {"zero": "zero", "base": "base"}
        said = [[Completion((), (), text, True, opened=opened) for text in texts] for texts in (zero, base)]
        return PairMaker(asked, PairSettings(**settings), models, 0, accuracy, None).make(*said)

    yield run
    accuracy.close()


def pairs_of_sloppy_answers(make: Make, count: int) -> list[PreferencePair]:
    """Two models that answer alike, each four times, in all the forms that a base knows."""
    rng, pairs = random.Random(1), []
    for i, (_, question) in enumerate(scenes.examples(5, count)):
        prompt = Prompt(
            f"q{i}",
            ({"role": "user", "content": question.text},),
            answer=question.answer,
            answer_type=question.answer_type,
            choices=tuple(question.choices),
        )
        zero, base = ([habits.respond(question, THINK, rng) for _ in range(4)] for _ in range(2))
        if isinstance(pair := make(zero, base, prompt=prompt), PreferencePair):
            pairs.append(pair)
    return pairs


class TestSides:
    def test_a_bag_of_words_hardly_tells_them_apart(self, make: Make) -> None:
        """A glance is on the chosen side a little more often, where zero has no other complete sample."""
        pairs = pairs_of_sloppy_answers(make, 400)
        told = tell_apart([(pair.chosen, pair.rejected) for pair in pairs])
        assert len(pairs) > 200
        assert told.accuracy < 0.525, told
        assert abs(told.longer_by) < 0.05 * told.words, told

    def test_but_it_tells_what_introduces_an_answer(self, make: Make) -> None:
        pairs = pairs_of_sloppy_answers(make, 200)
        left_in = [(p.chosen, p.rejected + " The answer is" * (i % 4 == 0)) for i, p in enumerate(pairs)]
        assert tell_apart(left_in).accuracy > 0.58

    def test_neither_reasoning_ends_in_a_phrase_or_gives_the_answer_twice(self, make: Make) -> None:
        pairs = pairs_of_sloppy_answers(make, 200)
        for pair in pairs:
            for text in (pair.chosen, pair.rejected):
                said = " ".join(words(text))
                assert not re.search(r"answer is|boxed|[{}\"]", said, re.IGNORECASE), text
                assert not re.search(r"\b(\w+) \1 \1$", said), text

    def test_the_two_with_most_words_in_common_make_it(self, make: Make) -> None:
        near, far = THINK.write("one and one, so 2", "2"), THINK.write("it looks like 2", "2")
        for _ in range(3):
            pair = make([far, near], ["<think>one and then one, so 2</think>\n2"], corruptions=["strip_all_tags"])
            assert (pair.chosen, pair.rejected) == (near, "one and then one, so 2\n2")

    def test_or_any_two(self, make: Make) -> None:
        near, far = THINK.write("one and one, so 2", "2"), THINK.write("it looks like 2", "2")
        asked = [Prompt(f"p{i}", ({"role": "user", "content": "?"},), answer="2") for i in range(20)]
        assert {make([far, near], [near], match="random", prompt=one).chosen for one in asked} == {far, near}


class TestReasoning:
    @pytest.mark.parametrize("unfinished", ["one and one. The answer is", "one and one, so 2. So \\boxed{", "so"])
    def test_a_chosen_one_does_not_end_in_an_unfinished_phrase(self, make: Make, unfinished: str) -> None:
        pair = make([THINK.write(unfinished, "2")], [SAYS_2], verify=False)
        if unfinished == "so":
            assert pair == "no complete sample of zero"
        else:
            assert pair.provenance["chosen_supplemented"]
            assert THINK.read(pair.chosen).reasoning == unfinished[: unfinished.index(".") + 1]

    @pytest.mark.parametrize(
        "text", ["2", "The answer is 2", r"So it is \boxed{2}", "<think>2</think><answer>2</answer>"]
    )
    def test_without_reasoning_a_response_is_on_neither_side(self, make: Make, text: str) -> None:
        assert make([text], [SAYS_2]) == "no complete sample of zero"
        assert make([SAYS_2], [text]) == "no right sample of base with reasoning"

    @pytest.mark.parametrize("text", ['one and one, so 2\n<solution>2"}', "one and one, so 2.\nAnswer: 2 2"])
    def test_nor_with_an_answer_that_is_not_clean(self, make: Make, text: str) -> None:
        assert isinstance(make([SAYS_2], [text]), str)


class TestOpenedTag:
    """Both models' template opens `<think>`: their responses begin with it, and it is a part of both sides."""

    def test_a_sample_of_zero_that_goes_on_from_it_is_complete(self, make: Make) -> None:
        text = "<think>\none and one, so 2</think>\n<answer>2</answer>"
        pair = make([text], [text], opened="<think>\n")
        assert pair.chosen == text and not pair.provenance["chosen_supplemented"]
        assert THINK.read(pair.rejected) is None

    def test_one_that_never_closes_it_is_written_again(self, make: Make) -> None:
        pair = make(["<think>\none and one, so 2\nAnswer: 2"], [UNTAGGED], opened="<think>\n")
        assert pair.chosen == SAYS_2 and pair.provenance["chosen_supplemented"]

    @pytest.mark.parametrize("name", CORRUPTIONS)
    def test_each_corruption_still_loses_the_format_behind_it(self, make: Make, name: str) -> None:
        text = "<think>\none and one, so 2</think>\n<answer>2</answer>"
        rejected = make([text], [text], opened="<think>\n", corruptions=[name]).rejected
        assert THINK.read("<think>\n" + rejected.removeprefix("<think>")) is None


def test_word_distance_is_the_share_of_words_that_one_text_has_alone() -> None:
    assert word_distance("one and two", "Two, and one.") == 0
    assert word_distance("one two", "three") == 1
    assert word_distance("one two three", "one two four") == pytest.approx(1 / 3)
    assert word_distance("", "") == 0
