"""What is predicted is what trainings in a process of their own take."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from helpers.command_line import working_directory
from helpers.peak_memory import measured_peaks

from specs_lightning.plan.memory import memory_of
from specs_lightning.plan.reading import read
from specs_lightning.toy import resolve

LITTLE = {
    "trainer.accelerator": "cpu",
    "trainer.devices": 1,
    "trainer.max_steps": 2,
    "trainer.logger": "false",
    "trainer.enable_checkpointing": "false",
    "trainer.enable_progress_bar": "false",
    "trainer.enable_model_summary": "false",
    "model.policy.model": "./endless",
    "model.max_tokens_per_micro_batch": 16384,
}
COLD_START = {
    "model": "specs_lightning.modules.ColdStartModule",
    "data": "specs_lightning.data.PreferenceDataModule",
    "data.train": "pairs.jsonl",
    "data.batch_size": 6,
}
GRPO = {
    "model": "specs_lightning.modules.GRPOModule",
    "data": "specs_lightning.data.RolloutDataModule",
    "data.train.path": "toy:train",
    "data.prompts_per_round": 6,
    "data.steps_per_round": 1,
    "data.rounds": 2,
    "data.sampling.max_tokens": 64,
}
CASES = {
    "a second model": COLD_START | {"model.reference": "frozen"},
    "adapters, activations recomputed": COLD_START
    | {
        "model.policy.lora": "{}",
        "model.policy.gradient_checkpointing": "true",
        "data.batch_size": 8,
        "trainer.max_steps": 1,
    },
    "rollouts": GRPO,
    "a trained vision tower": COLD_START
    | {"data.train": "images.jsonl", "data.batch_size": 8, "model.policy.freeze_vision": "false"}
    | {"data.image_memory_gib": 0},  # what is kept of the data is not the plan's,
}


def write_pairs(folder: Path) -> None:
    """`pairs.jsonl` of long texts, and `images.jsonl` of short ones about several images each."""
    words = "one two red circles and three blue squares so the answer is "
    images = [{"type": "image"}] * 4
    for name, parts, times in (("pairs", [], 15), ("images", images, 1)):
        rows = [
            {
                "prompt": [{"role": "user", "content": [*parts, {"type": "text", "text": f"How many shapes, {n}?"}]}],
                "images": ["noise.png"] * len(parts),
                "chosen": [{"role": "assistant", "content": words * times + str(n)}],
                "rejected": [{"role": "assistant", "content": words * times}],
            }
            for n in range(16)
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))


def write_model(folder: Path) -> None:
    """The toy's model with an end token that is never sampled, so that every completion reaches the length limit."""
    shutil.copytree(resolve("toy:base"), folder / "endless")
    config = folder / "endless" / "config.json"
    file = folder / "endless" / "generation_config.json"
    banned = json.loads(config.read_text())["vision_end_token_id"]
    file.write_text(json.dumps(json.loads(file.read_text()) | {"eos_token_id": banned}))


def arguments(case: str) -> list[str]:
    given = {"model": CASES[case]["model"], "data": CASES[case]["data"]} | LITTLE | CASES[case]
    return [f"--{name}={value}" for name, value in given.items()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import PIL.Image

    folder = tmp_path_factory.mktemp("peaks")
    write_pairs(folder)
    write_model(folder)
    PIL.Image.effect_noise((224, 224), 64).convert("RGB").save(folder / "noise.png")
    return folder


@pytest.fixture(scope="module")
def measured(folder: Path) -> dict[str, int]:
    return dict(zip(CASES, measured_peaks([arguments(case) for case in CASES], folder), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_prediction_is_within_15_percent_of_what_is_measured(
    case: str, folder: Path, measured: dict[str, int]
) -> None:
    with working_directory(folder):
        (planned,) = read(arguments(case))
        predicted = memory_of(planned.job).peak
    print(case, f"{predicted / 2**20:.0f} MiB predicted, {measured[case] / 2**20:.0f} measured")
    assert predicted == pytest.approx(measured[case], rel=0.15)
