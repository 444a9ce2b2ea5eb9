"""What a run's stages do, each by the command that a person would type: train, make pairs, evaluate.

Each is a job, which comes to the processor seconds that it took.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from specs_lightning.modules.checkpoint_files import FOLDER, by_step
from specs_lightning.records.answers import FILE as ANSWERS
from specs_lightning.records.samples import ANSWER_SAMPLES, SAMPLES
from specs_lightning.runs.jobs import Job
from specs_lightning.runs.processes import Command
from specs_lightning.system.files import remove, write_atomically

EVALUATION_FILE = "evaluation.yaml"
COMPUTING = ("accelerator", "strategy", "devices", "num_nodes", "precision")
"""The Trainer's settings by which a trained model is also evaluated."""


def fit_stage(title: str, config: str, overrides: Sequence[str], folder: Path) -> Job[float]:
    """Train, from where an earlier attempt was stopped; the model goes to `folder/model`."""
    if not by_step(folder / FOLDER):  # killed after its model was written, it begins anew
        remove(folder / "model")
    own = [f"--trainer.default_root_dir={folder}", "--ckpt_path=last"]
    return (yield Command(["fit", f"--config={config}", *overrides, *own], title, folder))


def distill_stage(title: str, config: str, overrides: Sequence[str], folder: Path) -> Job[float]:
    """Make pairs; samples drawn before a stop are kept."""
    return (yield Command(["distill", f"--config={config}", *overrides, f"--output={folder}"], title, folder))


def evaluate_stage(
    title: str, model: str, data: Mapping[str, Any], overrides: Sequence[str], folder: Path, seed: int
) -> Job[float]:
    """Answer evaluation sets, in `folder/answers.jsonl`: `specs test` with the settings in `folder/evaluation.yaml`.
    Some are kept with their prompts, in `folder/answer_samples.jsonl`.

    A model that was trained in the folder is evaluated in the same type and on as many devices. `data` holds the
    settings of an `EvaluationDataModule`, `overrides` those of `specs test`.
    """
    file = folder / "config.yaml"
    trained = yaml.safe_load(file.read_text()) if file.exists() else {}
    policy = trained["model"]["init_args"]["policy"] if trained else {}
    trainer = {name: trained["trainer"][name] for name in COMPUTING} if trained else {}
    # What was exported has its adapters merged in, and is not quantized any more.
    policy = {**policy, "model": model, "revision": None, "lora": None, "quantization": None}
    settings = {
        "seed_everything": seed,
        "trainer": {**trainer, "default_root_dir": str(folder), "logger": False, "enable_model_summary": False},
        "model": {"class_path": "specs_lightning.modules.GRPOModule", "init_args": {"policy": policy}},
        "data": {"class_path": "specs_lightning.data.EvaluationDataModule", "init_args": {**data, "seed": seed}},
    }
    write_atomically(folder / EVALUATION_FILE, yaml.safe_dump(settings, sort_keys=False))
    seconds = yield Command(["test", f"--config={folder / EVALUATION_FILE}", *overrides], title, folder)
    (folder / f"test_{ANSWERS}").replace(folder / ANSWERS)
    (folder / f"test_{SAMPLES.name}").replace(folder / ANSWER_SAMPLES.name)
    return seconds
