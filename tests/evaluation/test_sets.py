"""Evaluation sets: each prompt is asked once, processes share them evenly, and answers come in the prompts' order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from helpers.two_threads import two_threads

from specs_lightning.errors import DataError
from specs_lightning.evaluation import answer_cache, sets
from specs_lightning.evaluation.answer_cache import AnswerCache
from specs_lightning.evaluation.evaluator import Evaluator
from specs_lightning.evaluation.sets import EvaluationSets
from specs_lightning.groups import Completion, EncodedPrompt, Prompt
from specs_lightning.policy.policy import Policy
from specs_lightning.prompts.encoder import PromptEncoder, PromptTooLong
from specs_lightning.prompts.set_aside import SetAside
from specs_lightning.rollout import RolloutEngine, SamplingSettings

POLICY = cast(Policy, None)
"""Nobody here looks at it."""


class Echo(RolloutEngine):
    """Answers every prompt twice, with its id and how often it was asked anything; notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, list[str]]] = []
        self.released = 0

    def sync(self, policy: Policy) -> None:
        """Nothing to take over."""

    def generate(
        self, prompts: Sequence[EncodedPrompt], sampling: SamplingSettings, seed: str
    ) -> list[list[Completion]]:
        self.asked.append((seed.rpartition("-")[2], [prompt.id for prompt in prompts]))
        texts = [f"<think>{i}</think><answer>{len(self.asked)}</answer>" for i in range(2)]
        return [[Completion((1,), (-1.0,), f"{p.id} {text}", True) for text in texts] for p in prompts]

    def release(self) -> None:
        self.released += 1


class Plain:
    """Encodes without a processor; what is called `long` is too long."""

    def encode(self, prompt: Prompt) -> EncodedPrompt:
        if prompt.id == "long":
            raise PromptTooLong("prompt longer than 4 tokens")
        return EncodedPrompt(prompt.id, torch.tensor([1]), prompt=prompt)


def prompts(*ids: str) -> list[Prompt]:
    source = {"source_file": "a.jsonl", "source_row": 1}
    return [Prompt(id, (), answer="1", answer_type="text", metadata=source) for id in ids]


@pytest.fixture
def make() -> Iterator[Callable[..., EvaluationSets]]:
    """Makes sets with an engine of their own."""
    made: list[EvaluationSets] = []

    def make(by_name: dict[str, list[Prompt]], batch_size: int = 2, **more: Any) -> EvaluationSets:
        encoder = cast(PromptEncoder, Plain())
        evaluator = Evaluator(Echo(), SamplingSettings(2, 8))
        settings = {"set_aside": SetAside(), **more}
        made.append(EvaluationSets(by_name, evaluator, encoder, batch_size=batch_size, **settings))
        return made[-1]

    yield make
    for one in made:
        one.evaluator.close()


@pytest.fixture
def on_two(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], list[Any]]:
    return two_threads(monkeypatch, sets, answer_cache)


def kept(folder: Path) -> AnswerCache:
    cache = AnswerCache(folder, {"model": "m"})
    cache.load()
    return cache


def asked(of: EvaluationSets) -> list[tuple[str, list[str]]]:
    engine = of.evaluator.engine
    assert isinstance(engine, Echo)
    return engine.asked


def ask_everything(of: EvaluationSets) -> None:
    for name in of.prompts:
        for batch in of.batches(name):
            of.ask(POLICY, name, batch)


def ids(answers: Sequence[Any]) -> list[str]:
    return [answer.prompt_id for answer in answers]


def test_answers_come_in_the_order_of_the_prompts_however_they_were_asked(make: Any) -> None:
    two = make({"a": prompts("p0", "p1", "p2"), "b": prompts("p0")})
    for name in ("b", "a"):
        for batch in reversed(list(two.batches(name))):
            two.ask(POLICY, name, batch)
    assert asked(two) == [("b", ["p0"]), ("a", ["p2"]), ("a", ["p0", "p1"])]
    answers = two.answers()
    assert list(answers) == ["a", "b"]
    assert ids(answers["a"]) == ["p0", "p0", "p1", "p1", "p2", "p2"] and ids(answers["b"]) == ["p0", "p0"]
    assert {answer.set for answer in answers["a"]} == {"a"}


def test_what_is_known_is_not_asked_again_and_what_is_new_is(make: Any, tmp_path: Path) -> None:
    first = make({"a": prompts("p1", "p3")}, cache=kept(tmp_path))
    ask_everything(first)
    more = make({"a": prompts("p0", "p1", "p2", "p3"), "b": prompts("p1")}, cache=kept(tmp_path))
    assert more.answered_before == 2
    ask_everything(more)
    assert asked(more) == [("a", ["p0", "p2"]), ("b", ["p1"])]
    found = more.answers()
    assert ids(found["a"]) == [id for id in ("p0", "p1", "p2", "p3") for _ in range(2)]
    assert found["a"][2:4] == first.answers()["a"][:2]


def test_known_answers_are_judged_by_todays_gold(make: Any, tmp_path: Path) -> None:
    first = make({"a": prompts("p0")}, cache=kept(tmp_path))
    ask_everything(first)
    assert [answer.correct for answer in first.answers()["a"]] == [1.0, 1.0]
    other = make({"a": [replace(one, answer="2") for one in prompts("p0")]}, cache=kept(tmp_path))
    assert [answer.correct for answer in other.answers()["a"]] == [0.0, 0.0] and asked(other) == []


def test_a_set_that_is_all_known_is_one_empty_batch_of_which_nothing_is_asked(make: Any, tmp_path: Path) -> None:
    ask_everything(make({"a": prompts("p0", "p1")}, cache=kept(tmp_path)))
    again = make({"a": prompts("p0", "p1")}, cache=kept(tmp_path))
    assert list(again.batches("a")) == [[]]
    ask_everything(again)
    assert asked(again) == [] and len(again.answers()["a"]) == 4


@pytest.mark.parametrize("none", [(), ("long", "long")])
def test_a_set_of_which_no_prompt_can_be_used_is_refused(make: Any, none: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match="no prompt of the set b can be used"):
        make({"a": prompts("p0"), "b": prompts(*none)})


def test_a_prompt_that_cannot_be_encoded_is_set_aside_and_the_others_are_asked(make: Any) -> None:
    set_aside = SetAside()
    one = make({"a": prompts("long", "p1")}, set_aside=set_aside)
    ask_everything(one)
    assert ids(one.answers()["a"]) == ["p1", "p1"]
    assert [row.reason for row in set_aside.rows] == ["prompt longer than 4 tokens"]


def test_asking_all_draws_anew(make: Any) -> None:
    one = make({"a": prompts("p0"), "b": prompts("p0")})
    first, second = one.ask_all(POLICY), one.ask_all(POLICY)
    assert [name for name, _ in asked(one)] == ["a", "b", "a", "b"]
    assert first["a"][0].completion != second["a"][0].completion
    assert one.answers()["a"] == [each.answer for each in second["a"]]
    assert one.evaluator.engine.released == 2


@pytest.mark.parametrize("count", range(1, 10))
def test_two_ranks_share_a_set_in_as_many_batches_each(make: Any, on_two: Any, count: int) -> None:
    """Lightning would wait for ever at the end of the one that has fewer."""
    everything = [f"p{i}" for i in range(count)]

    def batches() -> list[list[str]]:
        return [[one.id for one in batch] for batch in make({"a": prompts(*everything)}).batches("a")]

    first, second = on_two(batches)
    assert len(first) == len(second) == -(-count // 4)
    assert all(len(batch) <= 2 for batch in first + second)
    assert sorted(id for batch in first + second for id in batch) == everything


def test_both_ranks_have_all_answers_in_order(make: Any, on_two: Any) -> None:
    def answer() -> list[str]:
        both = make({"a": prompts("p0", "p1", "p2", "p3", "p4"), "b": prompts("p0")})
        ask_everything(both)
        found = both.answers()
        return ids(found["a"] + found["b"])

    expected = [id for id in ("p0", "p1", "p2", "p3", "p4", "p0") for _ in range(2)]
    assert on_two(answer) == [expected, expected]


def test_a_rank_without_prompts_is_asked_along_with_the_other(make: Any, on_two: Any) -> None:
    """What engines do, they may do together."""

    def calls() -> list[tuple[str, list[str]]]:
        one = make({"a": prompts("p0")})
        ask_everything(one)
        return asked(one)

    assert on_two(calls) == [[("a", ["p0"])], [("a", [])]]


def test_what_two_ranks_have_kept_one_process_finds(make: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def answer() -> list[str]:
        both = make({"a": prompts("p0", "p1", "p2")}, cache=kept(tmp_path))
        ask_everything(both)
        return ids(both.answers()["a"])

    with monkeypatch.context() as context:
        first, second = two_threads(context, sets, answer_cache)(answer)
    alone = make({"a": prompts("p0", "p1", "p2")}, cache=kept(tmp_path))
    assert alone.answered_before == 3 and list(alone.batches("a")) == [[]]
    assert ids(alone.answers()["a"]) == first == second


class TestTooLongForTheEngine:
    """An engine with little room: what leaves none for an answer is set aside, and does not end the evaluation."""

    class Short(Echo):
        max_length = 12

    class ByLength(Plain):
        def encode(self, prompt: Prompt) -> EncodedPrompt:
            return EncodedPrompt(prompt.id, torch.ones(len(prompt.id), dtype=torch.long), prompt=prompt)

    def sets(self, **by_name: list[Prompt]) -> tuple[EvaluationSets, SetAside]:
        evaluator, set_aside = Evaluator(self.Short(), SamplingSettings(2, 8)), SetAside()
        encoder = cast(PromptEncoder, self.ByLength())
        return EvaluationSets(by_name, evaluator, encoder, set_aside, 2), set_aside

    def test_it_is_set_aside_and_the_others_are_answered(self) -> None:
        asked, set_aside = self.sets(id=prompts("a", "abcde", "abcd", "c"), ood=prompts("b"))
        asked.ask_all(POLICY)
        answers = asked.answers()
        asked.close()
        assert [answer.prompt_id for answer in answers["id"]] == ["a", "a", "abcd", "abcd", "c", "c"]
        assert [row.reason.partition(":")[0] for row in set_aside.rows] == ["prompt longer than 4 tokens"]

    def test_a_set_without_any_other_is_refused_by_name(self) -> None:
        asked, _ = self.sets(id=prompts("a"), ood=prompts("abcde"))
        with pytest.raises(DataError, match="no prompt of the set ood can be used"):
            asked.ask_all(POLICY)
        asked.close()
