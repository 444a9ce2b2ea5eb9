"""What a command imports before it does anything: its help costs little more than Lightning, or nothing of the kind."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from helpers.command_line import ROOT

SLOW = """
bitsandbytes datasets kernels math_verify openai pandas peft transformers.core_model_loading
transformers.modeling_utils transformers.models.qwen2_5_vl vllm
""".split()  # noqa: SIM905  as one reads it
"""Seconds each, and of no use to who asks for help. What Lightning itself imports (torchvision, scipy) is its own."""


def imported_by(*args: str) -> set[str]:
    """The modules that are there when a command has shown its help."""
    dump = "atexit.register(lambda: print(json.dumps(list(sys.modules))))"
    code = f"import atexit, json, sys\nfrom specs_lightning.cli import main\n{dump}\nmain(sys.argv[1:])"
    done = subprocess.run([sys.executable, "-c", code, *args], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_help_of_a_training_imports_no_library_that_a_training_alone_needs() -> None:
    assert sorted(imported_by("fit", "--help").intersection(SLOW)) == []


@pytest.mark.parametrize("command", ["doctor", "report", "compare"])
def test_help_of_a_command_that_computes_nothing_imports_no_library_for_it(command: str) -> None:
    heavy = {*SLOW, "torch", "lightning", "transformers", "scipy"}
    assert sorted(imported_by(command, "--help") & heavy) == []


def test_libraries_are_quiet_however_late_they_are_imported() -> None:
    code = """
from specs_lightning.commands.process import prepare_process
prepare_process()
from datasets.utils import are_progress_bars_disabled
from transformers.utils.logging import is_progress_bar_enabled
print(are_progress_bars_disabled(), is_progress_bar_enabled())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]
