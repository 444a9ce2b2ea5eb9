"""`kill -9` at random moments changes nothing in what a run comes to, and what it comes to is complete."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers.command_line import ROOT
from transformers import AutoModelForImageTextToText, AutoProcessor

from benchmarks.kill_anywhere import Found, contents, differences, kill_anywhere, start
from specs_lightning.data.sources import PromptSource, load_prompts
from specs_lightning.policy.loading import PolicySettings
from specs_lightning.policy.policy import Policy
from specs_lightning.prompts.encoder import PromptEncoder
from specs_lightning.prompts.images import load_image
from specs_lightning.prompts.set_aside import SetAside
from specs_lightning.records.answers import read_answers
from specs_lightning.rollout import HFEngine, SamplingSettings
from specs_lightning.system.signals import STOPPED

SMALL_GRPO = {
    "data.prompts_per_round": 4,
    "data.sampling.completions_per_prompt": 4,
    "data.sampling.max_tokens": 24,
}
SMALL_COLD_START = {"data.batch_size": 2, "trainer.max_steps": 3}
FEW: dict[str, Any] = {
    "zero": SMALL_GRPO,
    "distill": {"prompts.limit": 24},
    "cold_start": SMALL_COLD_START,
    "sft": SMALL_COLD_START,
    "final": SMALL_GRPO,
}
STEPS = {"zero": 4, "cold_start": 3, "sft": 3, "final": 4}


def write_config(file: Path) -> Path:
    """The smoke run with fewer prompts, steps and tokens."""
    settings = yaml.safe_load((ROOT / "configs" / "toy" / "smoke.yaml").read_text())
    evaluation, stages = settings["evaluation"], settings["stages"]
    evaluation["in_distribution"]["limit"] = 4
    evaluation["out_of_distribution"] = {"ood_json": {"path": "toy:ood_json", "limit": 4}}
    evaluation["sampling"]["max_tokens"] = 24
    for name, overrides in FEW.items():
        stages[name]["overrides"] = stages[name]["overrides"] | overrides
    file.write_text(yaml.safe_dump(settings, sort_keys=False))
    return file


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Found, Path]:
    """What three kills brought to light, and the folder of the run that was left alone."""
    folder = tmp_path_factory.mktemp("killed")
    return kill_anywhere(write_config(folder / "few.yaml"), kills=3, folder=folder), folder / "alone" / "run"


@pytest.mark.slow
def test_a_run_that_is_killed_three_times_ends_as_one_that_is_left_alone(found: tuple[Found, Path]) -> None:
    killed, alone = found
    assert len(killed.places) == 3 and killed.runs == 1
    assert killed.differing == [] and killed.leftovers == []
    written = {f"{stage}/{name}" for stage in STEPS for name in ("model/model.safetensors", "metrics.csv")}
    assert contents(alone).keys() > written | {"distill/pairs.parquet", "results.json"}


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "status"), [(signal.SIGTERM, STOPPED), (signal.SIGINT, 1)], ids=["SIGTERM", "Ctrl-C"])
def test_a_run_that_is_told_to_stop_does_so_and_goes_on(
    found: tuple[Found, Path], tmp_path: Path, sent: int, status: int
) -> None:
    """In the middle of a training, which is a process of its own: none of its steps is lost."""
    config = write_config(tmp_path / "few.yaml")
    first = start(config, tmp_path)
    while not (kept := list(tmp_path.glob("run/zero/checkpoints/step=*.ckpt"))):
        assert first.is_alive()
        time.sleep(0.05)
    os.kill(first.pid, sent)
    first.join()
    assert first.exitcode == status
    assert len(list(tmp_path.glob("run/zero/checkpoints/step=*.ckpt"))) >= len(kept)
    second = start(config, tmp_path)
    second.join()
    assert second.exitcode == 0
    assert differences(tmp_path / "run", found[1]) == []


@pytest.mark.slow
def test_a_whole_run_has_every_step_model_and_answer(found: tuple[Found, Path]) -> None:
    _, run = found
    for stage, steps in STEPS.items():
        lines = (run / stage / "metrics.csv").read_text().splitlines()
        column = lines[0].split(",").index("step")
        assert [int(line.split(",")[column]) for line in lines[1:]] == list(range(steps)), stage
    results = json.loads((run / "results.json").read_text())
    assert [model["name"] for model in results["models"]] == ["base", *STEPS]
    assert (run / "report.html").stat().st_size > 10_000
    assert len(read_answers(run / "final" / "answers.jsonl")) == 2 * 4


@pytest.mark.slow
def test_the_final_model_answers_plain_transformers_as_it_answers_us(found: tuple[Found, Path]) -> None:
    model, prompts = found[1] / "final" / "model", PromptSource("toy:id", limit=4)
    assert plain_answers(model, prompts) == greedy_answers(model, prompts)


def greedy_answers(model: Path, prompts: PromptSource) -> list[tuple[int, ...]]:
    policy = Policy(PolicySettings(str(model)))
    encoder, engine = PromptEncoder(policy.processor), HFEngine()
    engine.sync(policy)
    encoded = [encoder.encode(prompt) for prompt in load_prompts(prompts, SetAside())]
    return [group[0].token_ids for group in engine.generate(encoded, SamplingSettings(1, 32, 0.0), "s")]


def plain_answers(model: Path, prompts: PromptSource) -> list[tuple[int, ...]]:
    """As anyone would get them who has transformers and not this package."""
    plain = AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(model)
    config = plain.config
    answers = []
    for prompt in load_prompts(prompts, SetAside()):
        text = processor.apply_chat_template(list(prompt.messages), tokenize=False, add_generation_prompt=True)
        inputs = processor(text=[text], images=[load_image(image) for image in prompt.images], return_tensors="pt")
        output = plain.generate(
            **inputs,
            do_sample=False,
            max_new_tokens=32,
            suppress_tokens=[config.image_token_id, config.video_token_id, config.vision_start_token_id],
        )
        answers.append(tuple(output[0, inputs["input_ids"].shape[1] :].tolist()))
    return answers


def test_a_single_bit_is_noticed(tmp_path: Path) -> None:
    for run in ("a", "b"):
        (tmp_path / run / "model").mkdir(parents=True)
        (tmp_path / run / "model" / "model.safetensors").write_bytes(b"\0")
        (tmp_path / run / "metrics.csv").write_text("step,train/loss,train/draw_seconds\n0,0.5,1.0\n")
    (tmp_path / "b" / "metrics.csv").write_text("step,train/loss,train/draw_seconds\n0,0.5,2.0\n")
    assert differences(tmp_path / "a", tmp_path / "b") == []
    (tmp_path / "b" / "model" / "model.safetensors").write_bytes(b"\1")
    (tmp_path / "b" / "metrics.csv").write_text("step,train/loss,train/draw_seconds\n0,0.25,1.0\n")
    assert differences(tmp_path / "a", tmp_path / "b") == ["metrics.csv", "model/model.safetensors"]
