"""A run folder as the pipeline leaves it, small and made up, for the tests and for looking at the page.

`python tests/helpers/synthetic_run.py FOLDER` writes one there, with its report.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import random
import sys
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from specs_lightning.evaluation.generalization import Generalization
from specs_lightning.evaluation.paired_scores import paired_differences
from specs_lightning.groups import Prompt
from specs_lightning.metrics.bootstrap import Interval
from specs_lightning.prompts.messages import build_messages
from specs_lightning.prompts.set_aside import SetAside
from specs_lightning.records.answers import Answer
from specs_lightning.report import write_report
from specs_lightning.report.evaluation import EvaluatedModel, write_evaluation
from specs_lightning.toy import scenes

STAGES = ["base", "zero", "distill", "cold_start", "sft", "final"]
SETS = {"id": True, "formats/boxed": False, "tasks/letter": False}
KINDS = {"base": "evaluate", "distill": "distill"}
ATTACK = "<script>alert('owned')</script><img src=x onerror=alert(1)>"
# model: format kept, correct, solved, on each of the sets
SCORES = {
    "base": [(0.41, 0.62, 0.30), (0.35, 0.55, 0.24), (0.22, 0.50, 0.15)],
    "zero": [(0.93, 0.70, 0.67), (0.40, 0.58, 0.27), (0.30, 0.52, 0.19)],
    "cold_start": [(0.97, 0.69, 0.68), (0.61, 0.60, 0.40), (0.42, 0.55, 0.28)],
    "sft": [(0.98, 0.66, 0.65), (0.31, 0.49, 0.18), (0.20, 0.43, 0.11)],
    "final": [(0.99, 0.84, 0.83), (0.66, 0.71, 0.52), (0.47, 0.63, 0.36)],
}


def write_run(folder: Path) -> Path:
    """A finished run with everything in it."""
    write_json(
        folder / "run.json",
        {
            "name": "toy-specs",
            "seed": 7,
            "started": "2026-03-02T09:12:44",
            "finished": "2026-03-02T10:03:10",
            "seconds": 3026.0,
            "stages": STAGES,
        },
    )
    write_json(folder / "results.json", results())
    for i, name in enumerate(STAGES):
        write_json(folder / name / "stage.json", stage(name, seconds=[41.5, 800.0, 210.0, 330.0, 300.0, 1344.0][i]))
        if name != "distill":
            if name != "base":
                write_jsonl(folder / name / "samples.jsonl", [sample(step) for step in range(0, 100, 25)])
            write_jsonl(folder / name / "answer_samples.jsonl", [answer_sample(of_set) for of_set in SETS])
    for name, reach in (("zero", 0.4), ("final", 1.0)):
        write_metrics(folder / name / "metrics.csv", grpo_rows(120, reach))
    for name, reach in (("cold_start", 0.6), ("sft", 0.2)):
        write_metrics(folder / name / "metrics.csv", cold_start_rows(40, reach))
    write_jsonl(folder / "distill" / "pairs_preview.jsonl", [pair(i) for i in range(3)])
    write_json(folder / "distill" / "statistics.json", statistics())
    write_jsonl(folder / "distill" / "set_aside.jsonl", set_aside())
    return folder


def write_experiments(folder: Path) -> dict[str, dict[int, Path]]:
    """Two experiments of three seeds each, which share their base."""
    runs: dict[str, dict[int, Path]] = {}
    for i, name in enumerate(("specs", "sft")):
        for seed in range(3):
            run = write_run(folder / name / f"seed-{seed}")
            rng = random.Random(f"{name}-{seed}")
            write_json(run / "run.json", {"name": name, "seed": seed, "stages": list(STAGES)})
            for of in SCORES:
                mark = f"{seed}" if of == "base" else f"{name}-{seed}"
                measured = {"status": "finished", "cpu_seconds": 60.0 + i, "attempts": 1, "fingerprint": mark}
                write_json(run / of / "stage.json", measured | {"settings": {"overrides": {"model.objective": name}}})
                answers = [
                    answer(set_name, f"p{n}", float(rng.random() < 0.6 - 0.1 * i))
                    for n in range(50)
                    for set_name in SETS
                ]
                write_jsonl(run / of / "answers.jsonl", answers)
            runs.setdefault(name, {})[seed] = run
    return runs


def answer(name: str, prompt: str, solved: float) -> dict[str, Any]:
    judged = {"format_kept": solved, "correct": solved, "solved": solved}
    return {"set": name, "prompt_id": prompt, "text": "", "tokens": 1, "finished": True, **judged}


def results() -> dict[str, Any]:
    base = SCORES["base"]
    models = []
    for name, scores in SCORES.items():
        gain_id = scores[0][2] - base[0][2]
        gains_ood = {"formats": scores[1][2] - base[1][2], "tasks": scores[2][2] - base[2][2]}
        gain_ood = sum(gains_ood.values()) / 2
        models.append(
            {
                "name": name,
                "stage": name,
                "sets": {
                    key: {"n": 500, "format_kept": kept, "correct": correct, "solved": solved, "tokens": 40.25}
                    for key, (kept, correct, solved) in zip(SETS, scores, strict=True)
                },
                "gain_id": gain_id,
                "gain_ood": gain_ood,
                "generalization_factor": factor(gain_id, gain_ood),
                "kinds": {
                    kind: {"gain_ood": gain, "generalization_factor": factor(gain_id, gain)}
                    for kind, gain in gains_ood.items()
                },
            }
        )
    sets = [{"name": name, "in_distribution": inside} for name, inside in SETS.items()]
    return {"measure": "solved", "beta": 2.0, "gain": "difference", "sets": sets, "models": models}


def factor(gain_id: float, gain_ood: float) -> float:
    both = gain_id > 0 and gain_ood > 0
    return 5 * gain_id * gain_ood / (4 * gain_id + gain_ood) if both else 0.0


def stage(name: str, seconds: float) -> dict[str, Any]:
    return {
        "stage": name,
        "kind": KINDS.get(name, "fit"),
        "status": "finished",
        "seconds": seconds,
        "fingerprint": "5f1c09ab",
        "settings": {"model": {"path": "toy", "lora": None}, "optimizer": {"lr": 1e-6, "betas": [0.9, 0.95]}},
        "model": None if name == "distill" else f"runs/toy-specs/{name}/model",
    }


def grpo_rows(steps: int, reach: float) -> list[dict[str, float]]:
    rng = random.Random(0)
    rows: list[dict[str, float]] = []
    for step in range(steps):
        learned = reach * (1 - math.exp(-step / 40))
        kept, right = 0.4 + 0.55 * learned, 0.5 + 0.3 * learned
        rows.append(
            {
                "step": step,
                "train/loss": rng.gauss(0.0, 0.02),
                "train/reward": 0.5 * kept + right + rng.gauss(0, 0.05),
                "train/rewards/format/mean": kept + rng.gauss(0, 0.04),
                "train/rewards/accuracy/mean": right + rng.gauss(0, 0.05),
                "train/entropy": 1.2 - 0.8 * learned + rng.gauss(0, 0.03),
                "train/completions/mean_length": 60 - 20 * learned + rng.gauss(0, 2),
                "train/mismatch/mean": abs(rng.gauss(0, 1e-6)),
                "train/mismatch/max": abs(rng.gauss(0, 1e-5)),
                "train/mismatch/effective_sample_size": 1 - abs(rng.gauss(0, 1e-6)),
                "train/grad_norm": abs(rng.gauss(1, 0.2)),
                "train/lr": 1e-6 * min(1.0, (step + 1) / 10),
                "train/blank_image_drop": learned,
            }
        )
        if step % 20 == 0:
            rows.append({"step": step, **evaluation(learned)})
    return rows


def cold_start_rows(steps: int, reach: float) -> list[dict[str, float]]:
    rng = random.Random(1)
    rows: list[dict[str, float]] = []
    for step in range(steps):
        learned = reach * (1 - math.exp(-step / 12))
        chosen, rejected = 1.8 * learned + rng.gauss(0, 0.1), -9 * learned + rng.gauss(0, 0.4)
        rows.append(
            {
                "step": step,
                "train/loss": 1.4 - learned + rng.gauss(0, 0.03),
                "train/sft_loss": 0.7 - 0.4 * learned + rng.gauss(0, 0.02),
                "train/rewards/chosen": chosen,
                "train/rewards/rejected": rejected,
                "train/rewards/margins": chosen - rejected,
                "train/rewards/accuracies": 0.5 + 0.5 * learned,
            }
        )
        if step % 10 == 0:
            rows.append({"step": step, **evaluation(learned)})
    return rows


def evaluation(learned: float) -> dict[str, float]:
    gains = {"gf/gain_id": 0.5 * learned, "gf/gain_ood": 0.24 * learned}
    gains["gf/generalization_factor"] = 0.27 * learned
    gains |= {"gf/gain_ood/formats": 0.28 * learned, "gf/gain_ood/tasks": 0.2 * learned}
    for i, name in enumerate(SETS):
        gains[f"gf/{name}/solved"] = 0.3 - 0.06 * i + (0.5 - 0.15 * i) * learned
        gains[f"gf/{name}/correct"] = 0.6 + (0.2 - 0.05 * i) * learned
        gains[f"gf/{name}/format_kept"] = 0.4 - 0.08 * i + (0.55 - 0.15 * i) * learned
    return gains


def answer_sample(of_set: str) -> dict[str, Any]:
    """Of an evaluation, which draws an answer a prompt."""
    row = sample(len(of_set))
    (first, *_) = row["completions"]
    return row | {"step": None, "set": of_set, "answer_format": "boxed", "completions": [first | {"reward": 1.0}]}


def sample(step: int) -> dict[str, Any]:
    thought = "I count the shapes of each colour: the red circle at the top left, the red square in the middle. " * 3
    completions = [
        completion(f"<think>{thought}</think>\n<answer>{count}</answer>", reward=reward, accuracy=reward - 0.5)
        for count, reward in ((2, 1.5), (3, 0.5), (2, 1.5))
    ]
    completions.append(completion(f"The answer is 2. {ATTACK}", reward=None, accuracy=None, finished=False))
    return {
        "step": step,
        "prompt_id": f"count-{step}",
        "prompt": "How many red shapes are there? Think in <think> </think>, then answer in <answer> </answer>.",
        "images": [picture(step)],
        "answer": "2",
        "answer_format": "tags",
        "completions": completions,
    }


def completion(text: str, reward: float | None, accuracy: float | None, finished: bool = True) -> dict[str, Any]:
    rewards = {"format": 1.0, "accuracy": accuracy}
    length = {"tokens": len(text) // 4, "logprob": -0.25 * (len(text) // 4)}
    return {"text": text, "finished": finished, **length, "reward": reward, "rewards": rewards}


def pair(i: int) -> dict[str, Any]:
    return {
        "prompt": "Are there more blue squares than green circles?",
        "images": [picture(100 + i)],
        "answer": "yes",
        "chosen": "<think>There are two blue squares and one green circle, and two is more than one.</think>\n"
        "<answer>yes</answer>",
        "rejected": "There are two blue squares. One circle is green. Answer: yes",
        "provenance": {"corruption": "announce_answer", "chosen_from": "zero", "judge": {"consistent": True}},
    }


def statistics() -> dict[str, Any]:
    return {
        "prompts": 2000,
        "candidates": 16000,
        "pairs": 1312,
        "chosen_correct": 0.7025,
        "chosen_consistent": None,
        "corruptions": {"strip_all_tags": 270, "strip_answer_tags": 255, "announce_answer": 787},
        "dropped": {"no correct candidate": 401, "judged inconsistent": 287},
    }


def set_aside() -> list[dict[str, Any]]:
    rows = [{"source": "scenes.parquet", "row": i, "reason": f"missing image file: {i}.png"} for i in range(58)]
    return [*rows, {"source": "scenes.parquet", "row": 99, "reason": "missing question"}]


def picture(seed: int) -> str:
    """A scene of nine shapes as a base64 PNG."""
    rng = random.Random(seed)
    image = Image.new("RGB", (84, 84), (238, 238, 238))
    draw = ImageDraw.Draw(image)
    for i in range(9):
        x, y = 28 * (i % 3) + rng.randint(4, 8), 28 * (i // 3) + rng.randint(4, 8)
        draw_shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
        draw_shape((x, y, x + 15, y + 15), fill=rng.choice(["red", "blue", "green", "orange"]))
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_metrics(path: Path, rows: list[dict[str, float]]) -> None:
    """A sparse CSV as Lightning's CSVLogger writes it: a cell is empty where nothing was logged."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, sorted({name for row in rows for name in row}))
        writer.writeheader()
        writer.writerows(rows)


def judged(number: int, correct: float, text: str = "<answer>1</answer>", cause: str | None = None) -> Answer:
    task = "counting" if number % 2 else "algebra"
    return Answer("vision", f"p{number}", text, 9, number > 1, 1.0, correct, correct, "1", task=task, cause=cause)


def write_evaluated(file: Path, with_base: bool = True, name: str = "vision") -> Path:
    """The page of `specs test`: one benchmark with two tasks, a model and its base."""
    picture = scenes.png(scenes.examples(13, 1)[0][0])
    prompts = [Prompt(f"p{i}", build_messages("How many?", 1), (picture,), "1") for i in range(40)]
    mine = [judged(i, float(i < 30)) for i in range(40)]
    mine[0] = judged(0, math.nan, ATTACK, "no rule for the metric gpt_4o_as_judge")
    other = [judged(i, float(i < 20)) for i in range(40)]
    models = [EvaluatedModel("runs/final/model", {name: mine}), EvaluatedModel("org/base", {name: other})]
    set_aside = SetAside()
    set_aside.add(f"data/{name}", 3, "truncated image: 3.png")
    apart = {name: paired_differences(mine, other)} if with_base else {}
    models = models if with_base else models[:1]
    gains = dict.fromkeys(("gain_id", "gain_ood", "generalization_factor"), Interval(0.1, 0.4))
    found = Generalization("solved", 2.0, "difference", 0.25, 0.2, 0.208, gains, {}) if with_base else None
    settings = {"seed": 0, "sampling": {"max_tokens": 7}}
    write_evaluation(file, models, apart, {name: prompts}, settings, set_aside, found)
    return file


if __name__ == "__main__":
    print(write_report(write_run(Path(sys.argv[1]))))
