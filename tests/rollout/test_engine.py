"""What all engines share: how to sample, from which seed, and where completions end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1 .all tokens., not 0.0"),
        ({"top_p": 1.1}, "top_p must be"),
        ({"top_k": -1}, "top_k must be positive, not -1: leave it out for all tokens"),
        ({"min_p": -0.1}, "min_p must be between 0"),
        ({"min_p": 1.5}, "min_p must be"),
        ({"stop": "</answer>"}, "stop must be a list of texts, none of them empty, not '</answer>'"),
        ({"stop": [""]}, "stop must be"),
    ],
)
@pytest.mark.bad_input("settings")
def test_truncation_and_stop_texts_out_of_range(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SamplingSettings(**wrong)


def test_what_completions_depend_on_is_told_as_before_where_nothing_new_is_set() -> None:
    assert SamplingSettings(3, 64).decisive == {"completions_per_prompt": 3, "max_tokens": 64, "temperature": 1.0}
    more = SamplingSettings(3, 64, top_k=5, stop=["."]).decisive
    assert more == SamplingSettings(3, 64).decisive | {"top_k": 5, "stop": ["."]}


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
