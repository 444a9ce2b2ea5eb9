"""Samples of the current round are kept, with what they were scored."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
from helpers.small_runs import Failing, ScriptedEngine, adam, small_trainer, write_pair_file, write_prompt_file

from specs_lightning.callbacks import SampleTable
from specs_lightning.data import PreferenceDataModule, RolloutDataModule
from specs_lightning.data.sources import PromptSource
from specs_lightning.errors import SettingsError
from specs_lightning.modules import ColdStartModule, GRPOModule, ScheduleSettings
from specs_lightning.objectives import SFT
from specs_lightning.policy.loading import PolicySettings
from specs_lightning.rollout import SamplingSettings


def run(tiny_model_path: Path, folder: Path, callback: SampleTable) -> list[dict[str, Any]]:
    data = RolloutDataModule(
        PromptSource(str(write_prompt_file(folder))),
        rewards=[Failing(lambda prompt, completion: completion.text == "aa")],
        sampling=SamplingSettings(3, 6),
        engine=ScriptedEngine(lambda prompt, seed: ["a", "aa", f"{prompt.id} {seed}"]),
        prompts_per_round=4,
        steps_per_round=2,
        rounds=2,
    )
    settings = PolicySettings(str(tiny_model_path))
    module = GRPOModule(settings, optimizer=adam, schedule=ScheduleSettings("constant", 0.0))
    small_trainer(folder, callback).fit(module, datamodule=data)
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


def test_a_training_without_rounds_is_refused_before_it_begins(tiny_model_path: Path, tmp_path: Path) -> None:
    module = ColdStartModule(PolicySettings(str(tiny_model_path)), SFT())
    data = PreferenceDataModule(str(write_pair_file(tmp_path)), batch_size=2)
    with pytest.raises(SettingsError, match="PreferenceDataModule has none: leave it out"):
        small_trainer(tmp_path, SampleTable()).fit(module, datamodule=data)
    assert not (tmp_path / "samples.jsonl").exists()


def test_rows_hold_prompt_images_completions_and_scores(tiny_model_path: Path, tmp_path: Path) -> None:
    rows = run(tiny_model_path, tmp_path, SampleTable(every_n_steps=2, groups=3, completions=3))
    assert [row["step"] for row in rows] == [1] * 3 + [3] * 3
    for row in rows:
        seed = "0-0" if row["step"] == 1 else "0-1"
        assert row["answer"] == "2" and row["answer_format"] == "think_answer"
        assert row["prompt"].endswith("inside <answer> </answer>.")
        assert len(row["images"]) == (0 if int(row["prompt_id"][1:]) % 3 == 2 else 1)
        for image in row["images"]:
            assert PIL.Image.open(io.BytesIO(base64.b64decode(image))).size == (84, 84)
        texts = [completion["text"] for completion in row["completions"]]
        assert texts == ["a", "aa", f"{row['prompt_id']} {seed}"]
        scores = [completion["reward"] for completion in row["completions"]]
        assert scores == [completion["rewards"]["failing"] for completion in row["completions"]] == [1.0, None, 6.0]
        assert row["completions"][0]["tokens"] == 2 and row["completions"][0]["finished"] is True
        assert row["completions"][0]["logprob"] == -2.0


def test_as_many_as_asked_for(tiny_model_path: Path, tmp_path: Path) -> None:
    rows = run(tiny_model_path, tmp_path, SampleTable(every_n_steps=100, groups=1, completions=2))
    assert [len(row["completions"]) for row in rows] == [2]


@pytest.mark.parametrize("wrong", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_settings_out_of_range(wrong: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        SampleTable(*wrong)


def test_a_sample_begins_with_the_tag_that_the_template_opens(thinking_model_path: Path, tmp_path: Path) -> None:
    data = RolloutDataModule(
        PromptSource(str(write_prompt_file(tmp_path))),
        sampling=SamplingSettings(2, 6),
        prompts_per_round=2,
        steps_per_round=1,
        rounds=1,
    )
    module = GRPOModule(PolicySettings(str(thinking_model_path)), optimizer=adam)
    small_trainer(tmp_path, SampleTable()).fit(module, datamodule=data)
    rows = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    texts = [completion["text"] for row in rows for completion in row["completions"]]
    assert len(texts) == 4 and all(text.startswith("<think>\n") for text in texts)
