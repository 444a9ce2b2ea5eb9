"""More of what cannot be used, by kind: what is given, and what the message says of it."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch
from helpers.command_line import refused

from specs_lightning.data import PreferenceDataModule, RolloutDataModule
from specs_lightning.data.pairs import load_pairs
from specs_lightning.data.sources import PromptSource
from specs_lightning.distill.pair_maker import PairSettings
from specs_lightning.judge import JudgeSettings
from specs_lightning.modules.checkpoint_files import CheckpointError, check, find
from specs_lightning.objectives import DPO, GRPO
from specs_lightning.policy.loading import LoRASettings, PolicySettings
from specs_lightning.prompts.images import BadImage, load_image, read_source
from specs_lightning.prompts.set_aside import SetAside
from specs_lightning.rewards import AccuracyReward, FormatReward, Reward, RewardError, RewardSum
from specs_lightning.rollout import SamplingSettings
from specs_lightning.runs.measurement import EvaluationSettings
from specs_lightning.scoring.answer_formats import answer_format

SOURCE = PromptSource("rows.jsonl")
NAN = math.nan
Case = tuple[Callable[[], object], str]

SETTINGS: dict[str, Case] = {
    "temperature_nan": (lambda: SamplingSettings(temperature=NAN), "temperature must be 0 or a positive number"),
    "temperature_below_0": (lambda: SamplingSettings(temperature=-1), "temperature must be 0 or a positive number"),
    "no_completions": (lambda: SamplingSettings(0), "completions_per_prompt must be positive, not 0"),
    "no_tokens": (lambda: SamplingSettings(max_tokens=0), "max_tokens must be positive, not 0"),
    "beta_nan": (lambda: DPO(beta=NAN), "beta must be positive, not nan"),
    "sft_weight_infinite": (lambda: DPO(sft_weight=math.inf), "sft_weight must be 0 or more, not inf"),
    "clip_high_nan": (lambda: GRPO(clip_high=NAN), "clip_high not negative"),
    "kl_nan": (lambda: GRPO(kl_coefficient=NAN), "kl_coefficient and entropy_coefficient must not be negative"),
    "constant_length_0": (
        lambda: GRPO(aggregation="constant", constant_length=0),
        "constant_length must be positive, not 0",
    ),
    "judge_timeout_nan": (lambda: JudgeSettings("m", timeout_seconds=NAN), "judge.timeout_seconds must be positive"),
    "judge_retries": (lambda: JudgeSettings("m", retries=-1), "judge.retries must not be negative, but is -1"),
    "judge_without_name": (lambda: JudgeSettings(""), "judge.model is empty: name the model"),
    "judge_temperature": (lambda: JudgeSettings("m", temperature=-1), "judge.temperature must be 0 or a positive"),
    "judge_instructions": (lambda: JudgeSettings("m", instructions="/nowhere"), "judge.instructions: /nowhere is no"),
    "lora_rank_0": (lambda: LoRASettings(rank=0), "rank must be positive, not 0"),
    "lora_alpha_0": (lambda: LoRASettings(alpha=0), "alpha must be positive, not 0"),
    "quantized_without_lora": (lambda: PolicySettings("m", quantization="4bit"), "quantization needs lora"),
    "vision_frozen_and_adapted": (
        lambda: PolicySettings("m", lora=LoRASettings(vision=True)),
        "lora.vision adapts the vision tower, freeze_vision freezes it: choose one",
    ),
    "round_of_nothing": (lambda: RolloutDataModule(SOURCE, prompts_per_round=0), "prompts_per_round must be positive"),
    "round_without_steps": (lambda: RolloutDataModule(SOURCE, steps_per_round=0), "steps_per_round must be positive"),
    "no_rounds": (lambda: RolloutDataModule(SOURCE, rounds=0), "rounds must be positive, not 0"),
    "prompts_of_no_tokens": (lambda: RolloutDataModule(SOURCE, max_prompt_tokens=0), "max_prompt_tokens must be"),
    "prefetch_in_the_process": (
        lambda: RolloutDataModule(SOURCE, prefetch_rounds=1),
        "prefetch_rounds needs an engine that samples while the policy trains (VLLMServers)",
    ),
    "pairs_of_no_tokens": (
        lambda: PreferenceDataModule("a", max_completion_tokens=0),
        "max_completion_tokens must be positive, not 0",
    ),
    "corruptions_of_no_kind": (lambda: PairSettings(corruptions=("shuffle",)), "unknown corruptions ['shuffle']; "),
    "share_of_hard_negatives": (lambda: PairSettings(hard_negatives=NAN), "hard_negatives is a share between 0 and 1"),
    "no_path": (lambda: PromptSource(""), "path is empty: name a file, a folder, toy:NAME or hf:OWNER/NAME"),
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.bad_input("settings")
def test_a_setting_is_refused_by_its_name(name: str) -> None:
    make, said = SETTINGS[name]
    with pytest.raises(ValueError) as error:
        make()
    assert said in str(error.value)


EVALUATION_SETS: dict[str, Case] = {
    "two_in_distribution": (
        lambda: EvaluationSettings(SOURCE, {"id": SOURCE}),
        "`id` is the name of the set in distribution: give the other set another name",
    ),
    "beta_0": (lambda: EvaluationSettings(SOURCE, {}, beta=0), "beta must be positive, not 0"),
    "beta_nan": (lambda: EvaluationSettings(SOURCE, {}, beta=NAN), "beta must be positive, not nan"),
    "asked_in_batches_of_none": (
        lambda: PreferenceDataModule("a", evaluation_batch=0),
        "evaluation_batch must be positive, not 0",
    ),
}


@pytest.mark.parametrize("name", EVALUATION_SETS)
@pytest.mark.bad_input("evaluation sets")
def test_evaluation_sets_are_refused_with_what_to_do(name: str) -> None:
    make, said = EVALUATION_SETS[name]
    with pytest.raises(ValueError) as error:
        make()
    assert said in str(error.value)


FORMATS = {
    "nothing": "",
    "another_kind": "xml",
    "a_misspelt_name": "think_anwser",
    "words_of_a_format_that_has_none": "boxed:answer",
    "a_tag_as_it_is_written": "tags:<plan>,<reply>",
    "three_words": "tags:plan,check,reply",
    "three_words_in_brackets": "brackets:plan,check,reply",
    "the_same_word_twice": "tags:reply,reply",
    "the_same_key_twice": "json:a,a",
    "the_word_that_the_other_part_has_by_itself": "tags:answer",
    "two_lines": "line:Plan,Reply",
    "a_colon_too_many": "line:Answer:",
    "a_heading_that_is_a_number": "headings:1,2",
}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.bad_input("answer formats")
def test_an_answer_format_that_is_none_is_named_with_those_there_are(name: str) -> None:
    with pytest.raises(ValueError) as error:
        answer_format(FORMATS[name])
    said = str(error.value)
    assert f"unknown answer format {FORMATS[name]!r}; there are: think_answer" in said and "line:WORD" in said


PAIR = {"prompt": "How many?", "chosen": "two", "rejected": "three"}
# what stands in a pair's place, and the reason for which it is set aside
PAIRS: dict[str, tuple[dict[str, Any], str]] = {
    "no_chosen": ({"chosen": ""}, "chosen is not one non-empty assistant message"),
    "no_rejected": ({"rejected": None}, "rejected is not one non-empty assistant message"),
    "a_number": ({"chosen": 2}, "chosen is not one non-empty assistant message"),
    "a_list_of_texts": ({"chosen": ["two"]}, "chosen is not one non-empty assistant message"),
    "of_the_user": ({"chosen": {"role": "user", "content": "2"}}, "chosen is not one non-empty assistant message"),
    "two_turns": (
        {"rejected": [{"role": "assistant", "content": "3"}] * 2},
        "rejected is not one non-empty assistant message",
    ),
    "an_image_for_an_answer": (
        {"chosen": [{"role": "assistant", "content": [{"type": "image"}]}]},
        "chosen is not one non-empty assistant message",
    ),
    "the_same_text": ({"rejected": "two "}, "chosen and rejected are the same text"),
    "no_prompt": ({"prompt": ""}, "missing question"),
    "an_answered_prompt": ({"prompt": [{"role": "assistant", "content": "2"}]}, "messages do not end with the user's"),
    "an_image_that_is_not_there": ({"images": ["none.png"]}, "missing image file"),
    "half_a_character": ({"chosen": "\ud83d"}, "half a character"),
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.bad_input("pair files")
def test_a_pair_is_set_aside_by_file_and_line_with_its_reason(tmp_path: Path, name: str) -> None:
    changes, reason = PAIRS[name]
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in (PAIR, {**PAIR, **changes}, PAIR)))
    set_aside = SetAside()
    assert len(load_pairs(str(file), set_aside)) == 2
    assert [(row.source, row.row) for row in set_aside.rows] == [(str(file), 2)]
    assert reason in set_aside.rows[0].reason


def noise(form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    PIL.Image.effect_noise((24, 24), 50).convert("RGB").save(file, form, **options)
    return file.getvalue()


def changed(content: bytes, at: int, by: bytes) -> bytes:
    return content[:at] + by + content[at + len(by) :]


IMAGES: dict[str, tuple[Callable[[], object], str]] = {
    "nothing": (lambda: b"", "empty image: 0 bytes"),
    "one_byte": (lambda: b"\x89", "not an image of a known format"),
    "a_page": (lambda: b"<html>not found</html>", "not an image of a known format"),
    "zeros": (lambda: bytes(1000), "not an image of a known format"),
    "the_first_bytes_alone": (lambda: noise()[:8], "not an image of a known format"),
    "half_a_png": (lambda: noise()[:700], "truncated image"),
    "half_a_jpeg": (lambda: noise("JPEG")[:-200], "truncated image"),
    "a_wrong_checksum": (lambda: changed(noise(), 60, bytes(40)), "broken image"),
    "no_width": (lambda: changed(noise("BMP"), 18, bytes(4)), "image"),
    "half_a_gif": (lambda: noise("GIF")[:200], "image"),
    "half_a_webp": (lambda: noise("WEBP", lossless=True)[:200], "image"),
    "base64_that_is_none": (
        lambda: read_source("data:image/png;base64," + base64.b64encode(noise()).decode()[:-3], "."),
        "base64",
    ),
}


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.bad_input("images")
def test_an_image_is_called_what_it_is(name: str) -> None:
    content, said = IMAGES[name]
    with pytest.raises(BadImage) as error:
        load_image(content())  # type: ignore[arg-type]
    assert said in str(error.value)


class Broken(Reward):
    """Does what it is told to."""

    name = "broken"

    def __init__(self, does: Callable[[int], Any]) -> None:
        self.does = does

    def __call__(self, prompts: Any, completions: Any) -> Any:
        return self.does(len(completions))


def raising(count: int) -> torch.Tensor:
    raise ConnectionError("the judge hung up")


REWARDS: dict[str, tuple[Callable[[int], Any], str]] = {
    "raises": (raising, "ConnectionError: the judge hung up"),
    "nan": (lambda count: torch.full((count,), NAN), "no score given"),
    "infinite": (lambda count: torch.full((count,), math.inf), "no score given"),
    "one_for_all": (lambda count: torch.zeros(1 + count), "returned shape (2,) for 1 completions"),
    "a_column": (lambda count: torch.zeros(count, 1), "returned shape (1, 1) for 1 completions"),
    "none": (lambda count: None, "returned NoneType, not a tensor with a value for each completion"),
    "texts": (lambda count: ["good"] * count, "returned list, not a tensor with a value for each completion"),
}


@pytest.mark.parametrize("name", REWARDS)
@pytest.mark.bad_input("rewards")
def test_a_reward_that_scores_nothing_is_named_with_the_cause(ask: Any, reply: Any, name: str) -> None:
    does, cause = REWARDS[name]
    with pytest.raises(RewardError) as error:
        RewardSum([FormatReward(), Broken(does)]).score([ask()] * 2, [reply("a")] * 2)
    assert "'broken'" in str(error.value) and cause in str(error.value)


@pytest.mark.bad_input("rewards")
def test_a_reward_without_a_name_is_refused() -> None:
    class Nameless(Reward):
        def __call__(self, prompts: Any, completions: Any) -> Any:
            raise NotImplementedError

    with pytest.raises(ValueError, match="the reward Nameless has no name to be logged as: give its class one"):
        RewardSum([Nameless()])


@pytest.mark.parametrize("settings", [{"timeout_seconds": 0}, {"timeout_seconds": NAN}, {"workers": 0}], ids=str)
@pytest.mark.bad_input("rewards")
def test_a_reward_that_could_compare_nothing_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(settings))} must be positive"):
        AccuracyReward(**settings)


def checkpoint(content: Any) -> Callable[[Path], object]:
    def write(folder: Path) -> object:
        file = folder / "step=1.ckpt"
        if isinstance(content, bytes):
            file.write_bytes(content)
        else:
            torch.save(content, file)
        return check(file, {"seed_everything": 0})

    return write


CHECKPOINTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "not_there": (lambda folder: check(folder / "step=1.ckpt"), "step=1.ckpt does not exist"),
    "a_text": (checkpoint(b"weights"), "step=1.ckpt is damaged or no checkpoint"),
    "an_empty_file": (checkpoint(b""), "step=1.ckpt is damaged or no checkpoint"),
    "a_list": (checkpoint([1, 2]), "step=1.ckpt was not written by a training of this package"),
    "of_another_trainer": (checkpoint({"state_dict": {}}), "step=1.ckpt was not written by a training of this package"),
    "of_another_seed": (
        checkpoint({"step_loop": {}, "settings": {"seed_everything": 1}}),
        "give this one a folder of its own (trainer.default_root_dir)",
    ),
    "a_folder_without_any": (lambda folder: find(str(folder), folder), "or the folder of its training for its newest"),
    "of_a_training_that_has_none": (lambda folder: find("last", folder), "no checkpoint to use in"),
    "the_best_of_none": (lambda folder: find("best", folder), "best.ckpt does not exist: give the path of one"),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
@pytest.mark.bad_input("checkpoints")
def test_a_checkpoint_is_refused_with_its_file_and_what_to_do(tmp_path: Path, name: str) -> None:
    use, said = CHECKPOINTS[name]
    with pytest.raises(CheckpointError) as error:
        use(tmp_path)
    assert str(tmp_path) in str(error.value) and said in str(error.value)


COMMAND_LINES: dict[str, tuple[list[str], str]] = {
    "no_such_command": (["train"], "unknown command 'train'"),
    "no_such_file": (["run", "--config=missing.yaml"], "missing.yaml (paths are relative to the working directory)"),
    "no_folder_to_write_to": (["init"], "folder"),
    "a_folder_that_is_no_run": (["report", "tests"], "give the folder that `specs run` wrote"),
    "a_checkpoint_that_is_not_there": (["export", "none.ckpt"], "none.ckpt"),
    "a_share_of_more_than_all": (
        ["data", "check", "--config=configs/toy/grpo.yaml", "--hold_out=2"],
        "hold_out is a share of the rows that are frozen, below 1",
    ),
    "a_stage_that_is_not_there": (
        ["run", "--config=configs/toy/smoke.yaml", "--until=last", "--run_dir=/nowhere/r"],
        "no stage last to stop after; there are: base",
    ),
    "a_stage_to_redo_that_is_not_there": (
        ["compare", "configs/toy/grpo.yaml"],
        "holds the settings of another command: specs fit --config configs/toy/grpo.yaml",
    ),
    "a_data_set_without_a_path": (["data", "check", "--config=configs/toy/none.yaml"], "no such file"),
    "a_port_in_words": (["serve", "--model=toy:base", "--port=http"], "port: expected int, got 'http'"),
}


@pytest.mark.parametrize("name", COMMAND_LINES)
@pytest.mark.bad_input("command lines")
def test_a_command_line_is_refused_in_short(capsys: pytest.CaptureFixture[str], name: str) -> None:
    args, said = COMMAND_LINES[name]
    message = refused(capsys, *args)
    assert said in message and "Traceback" not in message
