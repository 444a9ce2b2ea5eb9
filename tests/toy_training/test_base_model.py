"""The base model that comes with the package: small, able to see, and sloppy, so that a run has something to mend."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from specs_lightning.data.sources import PromptSource, load_prompts
from specs_lightning.groups import EncodedPrompt, Prompt
from specs_lightning.policy.loading import PolicySettings
from specs_lightning.policy.policy import Policy
from specs_lightning.prompts.encoder import PromptEncoder
from specs_lightning.prompts.messages import build_messages
from specs_lightning.prompts.set_aside import SetAside
from specs_lightning.rollout import HFEngine, SamplingSettings
from specs_lightning.scoring.answer_formats import answer_format
from specs_lightning.toy import resolve, scenes
from specs_lightning.toy_training.base_model import CAPTION

FOLDER = Path(resolve("toy:base"))
pytestmark = pytest.mark.skipif(not (FOLDER / "config.json").exists(), reason="the base model is not made yet")


@pytest.fixture(scope="module")
def policy() -> Policy:
    return Policy(PolicySettings("toy:base"))


def answers(policy: Policy, prompts: list[Prompt], sampling: SamplingSettings) -> list[str]:
    encoder, engine = PromptEncoder(policy.processor), HFEngine()
    encoded: list[EncodedPrompt] = [encoder.encode(prompt) for prompt in prompts]
    engine.sync(policy)
    return [completion.text for group in engine.generate(encoded, sampling, "s") for completion in group]


def test_it_is_small() -> None:
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 6_000_000
    assert not [file.name for file in FOLDER.iterdir() if file.suffix in (".bin", ".pt", ".pkl", ".py")]


def test_it_sees_what_is_in_each_cell(policy: Policy) -> None:
    rng = random.Random("held out")
    drawn = [scenes.draw_scene(rng) for _ in range(40)]
    messages = build_messages(CAPTION, 1, add_instruction=False)
    prompts = [Prompt(f"{i}", messages, (scenes.png(scenes.paint(scene, rng)),)) for i, scene in enumerate(drawn)]
    right = 0
    for scene, text in zip(drawn, answers(policy, prompts, SamplingSettings(1, 64, 0.0)), strict=True):
        words = text.split()
        seen = {words[i]: (words[i + 1], words[i + 2]) for i in range(0, len(words) - 2, 3)}
        right += sum(seen.get(cell) == thing for cell, thing in zip(scenes.CELLS, scene, strict=True))
    assert right / (9 * len(drawn)) >= 0.95


@pytest.mark.parametrize("name", ["id", "ood_tags", "ood_brackets", "ood_boxed", "ood_json"])
def test_it_keeps_any_asked_format_now_and_then(policy: Policy, name: str) -> None:
    prompts = load_prompts(PromptSource(f"toy:{name}", limit=40), SetAside())
    texts = answers(policy, prompts, SamplingSettings(4, 96))
    form = answer_format(prompts[0].answer_format)
    kept = sum(form.read(text) is not None for text in texts) / len(texts)
    assert 0.2 < kept < 0.6


def test_it_is_a_base_that_has_something_to_learn(policy: Policy) -> None:
    prompts = load_prompts(PromptSource("toy:id", limit=100), SetAside())
    form = answer_format(prompts[0].answer_format)
    texts = zip(prompts, answers(policy, prompts, SamplingSettings(1, 96)), strict=True)
    read = [(prompt, form.read(text)) for prompt, text in texts]
    solved = sum(found is not None and found.answer == prompt.answer for prompt, found in read) / len(prompts)
    assert 0.08 < solved < 0.4
