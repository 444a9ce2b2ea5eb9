"""What stages are forked from has imported what they need, and nothing that a forked process could not use."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest

WARM = """
import json, os, signal, sys
import specs_lightning.runs.warm as warm
import torch
names = [open(f"/proc/self/task/{task}/comm").read().strip() for task in os.listdir("/proc/self/task")]
ignored = [int(number) for number in warm.SIGNALS if signal.getsignal(number) is signal.SIG_IGN]
before = set(sys.modules)
import specs_lightning.callbacks.stage_progress, specs_lightning.data, specs_lightning.modules, transformers
later = [name for name in set(sys.modules) - before if name.startswith("specs_lightning")]
print(json.dumps({"threads": names, "cuda": torch.cuda.is_initialized(), "ignored": ignored, "later": later}))
"""


@pytest.fixture(scope="module")
def warm() -> dict[str, Any]:
    """Of a process that has imported `runs.warm`, and then what a training uses."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    said = subprocess.run([sys.executable, "-c", WARM], env=environment, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(said.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
def test_what_stages_are_forked_from_holds_neither_threads_nor_a_device(warm: dict[str, Any]) -> None:
    """But for OpenBLAS' and jemalloc's, which these end and begin themselves around a fork."""
    _, *others = warm["threads"]
    assert set(others) <= {"jemalloc_bg_thd"} and not warm["cuda"]


@pytest.mark.slow
def test_it_outlives_what_stops_a_run(warm: dict[str, Any]) -> None:
    """A cluster tells all processes of a run at once, and the stages are to end first. (Ctrl-C is ignored already.)"""
    assert warm["ignored"] == [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP]


@pytest.mark.slow
def test_a_training_has_nothing_of_the_package_left_to_import(warm: dict[str, Any]) -> None:
    assert warm["later"] == []
