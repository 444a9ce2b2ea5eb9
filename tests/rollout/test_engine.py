"""What all engines share: how to sample, from which seed, and where completions end."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.questions import prompt
from helpers.tiny_policies import sharp_policy

from specs_lightning.groups import Completion
from specs_lightning.prompts.encoder import PromptEncoder
from specs_lightning.rollout import HFEngine, SamplingSettings
from specs_lightning.rollout.engine import prompt_seed, stop_ids


def test_seeds_are_the_same_on_every_machine() -> None:
    assert prompt_seed("0/1", "a") == 4994886724436472275
    assert prompt_seed("0/1", "a", 1) == 8446177277320114290
    seeds = [prompt_seed(seed, id, n) for seed in ("0/1", "0") for id in ("a", "b") for n in (0, 1, 256)]
    assert len(set(seeds)) == 12


@pytest.mark.parametrize("wrong", [(0, 1, 1.0), (1, 0, 1.0), (1, 1, -0.1)])
def test_settings_out_of_range(wrong: tuple[int, int, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        SamplingSettings(*wrong)
    with pytest.raises(ValueError, match="max_sequences"):
        HFEngine(max_sequences=0)


def test_a_model_that_names_no_end_token_is_refused(tiny_model_path: Path) -> None:
    policy = sharp_policy(tiny_model_path)
    policy.model.generation_config.eos_token_id = policy.tokenizer.eos_token = None
    with pytest.raises(ValueError, match="neither its generation config nor its tokenizer names an end token"):
        stop_ids(policy)


def test_texts_begin_with_the_tag_that_the_prompt_opened(thinking_model_path: Path) -> None:
    policy = sharp_policy(thinking_model_path)
    engine = HFEngine()
    engine.sync(policy)
    encoder = PromptEncoder(policy.processor)
    prompts = [encoder.encode(prompt("How many?", images, id=f"p{images}")) for images in (0, 2)]
    for group in engine.generate(prompts, SamplingSettings(2, 6), "seed"):
        for completion in group:
            assert completion.opened == "<think>\n"
            assert completion.text == "<think>\n" + encoder.decode(completion.token_ids)
            assert Completion.from_row(completion.as_row()) == completion
    engine.close()


def test_a_completion_has_the_room_that_the_longest_prompt_leaves() -> None:
    class Short(HFEngine):
        max_length = 100

    assert HFEngine().longest_prompt(SamplingSettings(1, 60)) is None
    assert Short().longest_prompt(SamplingSettings(1, 60)) == 40
    assert Short().longest_prompt(SamplingSettings(1, 200)) == 1
