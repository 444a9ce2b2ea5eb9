"""Configurations at the paper's scale fit on the hardware that they name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from helpers.command_line import ROOT, working_directory
from test_configs import commands

from specs_lightning.plan.memory import memory_of
from specs_lightning.plan.reading import read

FOLDERS = ("qwen2_5_vl_7b", "qwen3_vl_8b", "smolvlm2_2b")
GPUS = re.compile(r"^# Hardware: (\d+) GPUs? of (\d+) GB", re.MULTILINE)
LONGEST = {"smolvlm2_2b": (4096, 4096), "lora_24gb": (1024, 1024)}
"""Tokens of a prompt and of a completion, where not the paper's."""
FILES = [file for folder in FOLDERS for file in sorted((ROOT / "configs" / folder).glob("*.yaml"))]
COMMANDS = [(file, arguments) for file in FILES for command, arguments in commands(file) if command == "fit"]


def name(value: object) -> str:
    return f"{value.parent.name}/{value.stem}" if isinstance(value, Path) else ""


@pytest.mark.slow
@pytest.mark.parametrize(("file", "arguments"), COMMANDS, ids=name)
def test_it_fits_on_its_hardware(file: Path, arguments: str) -> None:
    found = GPUS.search(file.read_text())
    assert found is not None
    gpus, gigabytes = map(int, found.groups())
    prompt, completion = LONGEST.get(file.stem) or LONGEST.get(file.parent.name) or (4096, 10240)
    further = [f"--gpu_memory_gb={gigabytes}", "--rows=86000"]
    further += [f"--prompt_tokens={prompt}", f"--completion_tokens={completion}"]
    with working_directory(ROOT):
        (planned,) = read([*arguments.split(), *further])
    assert planned.job.devices.ranks <= gpus
    memory = memory_of(planned.job)
    assert memory.peak <= planned.job.devices.memory, f"{memory.peak / 2**30:.1f} GiB"
