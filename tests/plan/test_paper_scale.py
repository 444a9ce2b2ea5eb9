"""Configurations at the paper's scale fit on the hardware that they name, and run on tiny models of their families."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from helpers.command_line import EXPORT_ALONE, ROOT, specs, working_directory
from helpers.small_runs import write_pair_file, write_prompt_file
from helpers.tiny_families import tiny_family
from test_configs import commands

from specs_lightning.plan.memory import memory_of
from specs_lightning.plan.reading import read
from specs_lightning.plan.shapes import model_shape

SHAPES = {"qwen2_5_vl_7b": "Qwen2.5-VL-7B", "qwen3_vl_8b": "Qwen3-VL-8B", "smolvlm2_2b": "SmolVLM2-2.2B"}
GPUS = re.compile(r"^# Hardware: (\d+) GPUs? of (\d+) GB", re.MULTILINE)
LONGEST = {"smolvlm2_2b": (4096, 4096), "lora_24gb": (1024, 1024)}
"""Tokens of a prompt and of a completion, where not the paper's."""
FILES = [file for folder in SHAPES for file in sorted((ROOT / "configs" / folder).glob("*.yaml"))]
COMMANDS = [(file, arguments) for file in FILES for _, arguments in commands(file)]


def name(value: object) -> str:
    return f"{value.parent.name}/{value.stem}" if isinstance(value, Path) else ""


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model folders with nothing but the published configuration."""
    folder = tmp_path_factory.mktemp("shapes")
    for place, shape in SHAPES.items():
        model_shape(shape).save_pretrained(folder / place)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("file", "arguments"), COMMANDS, ids=name)
def test_it_fits_on_its_hardware(file: Path, arguments: str, shapes: Path) -> None:
    found = GPUS.search(file.read_text())
    assert found is not None
    gpus, gigabytes = map(int, found.groups())
    prompt, completion = LONGEST.get(file.stem) or LONGEST.get(file.parent.name) or (4096, 10240)
    further = [f"--shape={shapes / file.parent.name}", f"--gpu_memory_gb={gigabytes}", "--rows=86000"]
    further += [f"--prompt_tokens={prompt}", f"--completion_tokens={completion}"]
    with working_directory(ROOT):
        (planned,) = read([*arguments.split(), *further])
    assert planned.job.devices.ranks <= gpus
    memory = memory_of(planned.job)
    assert memory.peak <= planned.job.devices.memory, f"{memory.peak / 2**30:.1f} GiB"


DRY_RUNS = {
    "zero": "qwen2_5_vl_7b/zero",
    "cold start": "qwen2_5_vl_7b/cold_start",
    "adapters": "qwen2_5_vl_7b/lora_24gb",
    "Qwen3-VL": "qwen3_vl_8b/zero",
    "SmolVLM": "smolvlm2_2b/zero",
}
FAMILIES = {"qwen3_vl_8b": "qwen3_vl", "smolvlm2_2b": "smolvlm"}


@pytest.mark.slow
@pytest.mark.parametrize("case", DRY_RUNS)
def test_it_runs_on_a_tiny_model_of_its_family(case: str, tiny_model_path: Path, tmp_path: Path) -> None:
    file = ROOT / "configs" / f"{DRY_RUNS[case]}.yaml"
    family = FAMILIES.get(file.parent.name)
    model = tiny_family(family, tmp_path / "model") if family else tiny_model_path
    _, arguments = commands(file)[0]
    small = ["--data.sampling.max_tokens=8", "--data.prompts_per_round=8"]
    data = [f"--data.train={{path: {write_prompt_file(tmp_path)}, schema: generic}}", *small]
    if file.stem == "cold_start":
        data = [f"--data.train={write_pair_file(tmp_path)}"]
    specs(
        "fit",
        *arguments.split(),
        *data,
        f"--model.policy.model={model}",
        "--data.engine=specs_lightning.rollout.HFEngine",
        "--trainer.accelerator=cpu",
        "--trainer.devices=1",
        f"--trainer.default_root_dir={tmp_path / 'run'}",
        "--trainer.fast_dev_run=true",
        EXPORT_ALONE,
    )
    assert (tmp_path / "run" / "model" / "config.json").is_file()
