"""`kill -9` at random moments changes nothing in what a run comes to, and what it comes to is complete."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from helpers.whole_runs import STEPS, WholeRun
from transformers import AutoModelForImageTextToText, AutoProcessor

from benchmarks.kill_anywhere import contents, differences, kill_anywhere, killed, leftovers, start
from specs_lightning.data.sources import PromptSource, load_prompts
from specs_lightning.policy.loading import PolicySettings
from specs_lightning.policy.policy import Policy
from specs_lightning.prompts.encoder import PromptEncoder
from specs_lightning.prompts.images import load_image
from specs_lightning.prompts.set_aside import SetAside
from specs_lightning.records.answers import read_answers
from specs_lightning.rollout import HFEngine, SamplingSettings
from specs_lightning.system.signals import INTERRUPTED, STOPPED


@pytest.mark.slow
def test_a_run_that_is_stopped_and_killed_ends_as_one_that_is_left_alone(whole_run: WholeRun, tmp_path: Path) -> None:
    stop_in_a_training(whole_run, tmp_path, signal.SIGTERM, STOPPED)
    moment = random.uniform(0, 0.3 * whole_run.seconds)
    assert len(killed(whole_run.config, tmp_path, iter([moment]))) == 1
    assert differences(whole_run.folder, tmp_path / "run") == [] and leftovers(tmp_path / "run") == []
    written = {f"{stage}/{name}" for stage in STEPS for name in ("model/model.safetensors", "metrics.csv")}
    assert contents(whole_run.folder).keys() > written | {"distill/pairs.parquet", "results.json"}


@pytest.mark.slow
@pytest.mark.long
def test_however_often_it_is_killed(whole_run: WholeRun, tmp_path: Path) -> None:
    found = kill_anywhere(whole_run.config, 8, tmp_path, alone=whole_run.folder, seconds_alone=whole_run.seconds)
    assert len(found.places) == 8
    assert found.differing == [] and found.leftovers == []


@pytest.mark.slow
@pytest.mark.long
def test_a_run_that_ctrl_c_stops_goes_on(whole_run: WholeRun, tmp_path: Path) -> None:
    stop_in_a_training(whole_run, tmp_path, signal.SIGINT, INTERRUPTED)
    assert killed(whole_run.config, tmp_path, iter([])) == []
    assert differences(tmp_path / "run", whole_run.folder) == []


def stop_in_a_training(whole_run: WholeRun, folder: Path, sent: int, status: int) -> None:
    """In the middle of one, which is a process of its own: none of its steps is lost."""
    first = start(whole_run.config, folder)
    while not (kept := list(folder.glob("run/zero/checkpoints/step=*.ckpt"))):
        assert first.is_alive()
        time.sleep(0.05)
    os.kill(first.pid, sent)
    first.join()
    assert first.exitcode == status
    assert len(list(folder.glob("run/zero/checkpoints/step=*.ckpt"))) >= len(kept)


@pytest.mark.slow
def test_a_whole_run_has_every_step_model_and_answer(whole_run: WholeRun) -> None:
    run = whole_run.folder
    for stage, steps in STEPS.items():
        lines = (run / stage / "metrics.csv").read_text().splitlines()
        column = lines[0].split(",").index("step")
        assert [int(line.split(",")[column]) for line in lines[1:]] == list(range(steps)), stage
    results = json.loads((run / "results.json").read_text())
    assert [model["name"] for model in results["models"]] == ["base", *STEPS]
    assert (run / "report.html").stat().st_size > 10_000
    assert len(read_answers(run / "final" / "answers.jsonl")) == 2 * 4


@pytest.mark.slow
def test_the_final_model_answers_plain_transformers_as_it_answers_us(whole_run: WholeRun) -> None:
    model, prompts = whole_run.folder / "final" / "model", PromptSource("toy:id", limit=4)
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
