"""The toy's teacher: larger than the base, and what it is taught is right, consistent and in other words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from specs_lightning.data.pairs import load_pairs
from specs_lightning.data.sources import PromptSource, load_prompts
from specs_lightning.groups import GroupBatch
from specs_lightning.policy.loading import PolicySettings
from specs_lightning.policy.policy import Policy
from specs_lightning.prompts.encoder import PromptEncoder
from specs_lightning.prompts.set_aside import SetAside
from specs_lightning.records.pairs import PreferencePair
from specs_lightning.rewards import is_consistent
from specs_lightning.scoring.answer_formats import answer_format
from specs_lightning.toy import resolve, scenes, teacher

N = 40


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPECS_CACHE", str(folder))
        patch.setattr(teacher, "SIZE", N)
        yield folder


@pytest.fixture(scope="module")
def lessons(cache: Path) -> list[PreferencePair]:
    file = cache / "few.parquet"
    teacher.write_lessons(file)
    set_aside = SetAside()
    pairs = load_pairs(str(file), set_aside)
    assert len(pairs) == N and not set_aside.rows
    return pairs


def questions(n: int) -> list[scenes.SceneQuestion]:
    return [question for _, question in scenes.examples(teacher.SEED, n)]


class TestLessons:
    def test_each_is_right_well_formed_and_consistent(self, lessons: list[PreferencePair]) -> None:
        for pair, question in zip(lessons, questions(N), strict=True):
            parts = answer_format(teacher.ASKED).read(pair.chosen)
            assert parts is not None and parts.answer == question.answer
            assert is_consistent(parts.reasoning, parts.answer, question.answer_type, question.choices)

    def test_its_words_are_not_those_of_the_base(self) -> None:
        asked = questions(200)
        for question in asked:
            said, usual = teacher.explain(question), scenes.reasoning(question)
            assert said != usual and said.count(" at ") + said.startswith("at ") == len(question.steps)
            assert " is " not in said.rpartition("\n")[0] and " so " not in said

    def test_a_student_can_say_them_within_its_limit(self, lessons: list[PreferencePair]) -> None:
        """128 tokens, as the toy's configurations have it, in the base's tokens."""
        encoder = PromptEncoder(Policy(PolicySettings("toy:base")).processor)
        form = answer_format(teacher.ASKED)
        said = [form.write(teacher.explain(question), question.answer) for question in questions(1000)]
        assert max(len(encoder.encode_completion(text)) for text in said) <= 128

    def test_they_are_asked_as_the_other_data_sets_are(self, lessons: list[PreferencePair]) -> None:
        encoder = PromptEncoder(Policy(PolicySettings("toy:base")).processor)
        shape = [encoder.encode(prompt) for prompt in load_prompts(PromptSource("toy:id", limit=4), SetAside())]
        mine = [encoder.encode(pair.prompt) for pair in lessons[:4]]  # the four kinds of question, in the same order
        for one, other in zip(mine, shape, strict=True):
            assert one.question.text.splitlines()[-1] == other.question.text.splitlines()[-1]
            assert one.input_ids[:14].tolist() == other.input_ids[:14].tolist()

    def test_no_other_data_set_has_its_scenes(self) -> None:
        assert teacher.SEED not in {settings.seed for settings in scenes.DATA_SETS.values()}


class TestDeeper:
    def test_it_has_twice_the_layers_and_is_the_same_function_at_first(self) -> None:
        base, deep = (Policy(PolicySettings(name)).eval() for name in ("toy:base", "toy:deep"))
        layers = [policy.model.config.text_config.num_hidden_layers for policy in (base, deep)]
        assert layers == [4, 8]
        assert sum(p.numel() for p in deep.parameters()) > 1.5 * sum(p.numel() for p in base.parameters())
        encoder = PromptEncoder(base.processor)
        prompts = [encoder.encode(prompt) for prompt in load_prompts(PromptSource("toy:id", limit=3), SetAside())]
        texts = map(teacher.explain, questions(6))
        said = [[encoder.encode_completion(next(texts)) for _ in range(2)] for _ in prompts]
        batch = GroupBatch.from_token_ids(prompts, said)
        with torch.no_grad():
            torch.testing.assert_close(base.token_logprobs(batch).logprobs, deep.token_logprobs(batch).logprobs)

    def test_what_was_added_learns(self) -> None:
        deep = Policy(PolicySettings("toy:deep"))
        encoder = PromptEncoder(deep.processor)
        prompt = encoder.encode(load_prompts(PromptSource("toy:id", limit=1), SetAside())[0])
        batch = GroupBatch.from_token_ids([prompt], [[encoder.encode_completion("at a1 red circle")]])
        deep.token_logprobs(batch).logprobs.sum().backward()
        for number in range(1, 8, 2):
            added = deep.model.model.language_model.layers[number]
            assert not added.mlp.down_proj.weight.any()
            assert added.mlp.down_proj.weight.grad.abs().sum() > 0


def test_both_are_written_on_first_use(cache: Path) -> None:
    assert Path(resolve("toy:deep")).parent == Path(resolve("toy:lessons")).parent == cache / f"toy-v{scenes.VERSION}"
    assert (Path(resolve("toy:deep")) / "config.json").is_file()
    assert len(load_pairs("toy:lessons", SetAside())) == N
