"""docs/first_run.ipynb: its cells run, in order, and its outputs are of these cells."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from helpers.command_line import ROOT, working_directory
from helpers.whole_runs import WholeRun

SCRIPT = ROOT / "docs" / "run_notebook.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("run_notebook", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def finished(whole_run: WholeRun, tmp_path: Path) -> Iterator[Path]:
    """A folder in which the notebook's run is done already, by a smaller configuration of its name."""
    shutil.copytree(whole_run.folder, tmp_path / "runs" / "smoke")
    (tmp_path / "toy").mkdir()
    shutil.copy(whole_run.config, tmp_path / "toy" / "smoke.yaml")
    with working_directory(tmp_path):
        yield tmp_path


def printed(notebook: dict[str, Any]) -> list[str]:
    """How what each code cell printed begins, without numbers, and whether the run was done before."""
    texts = ["".join(line for one in cell["outputs"] for line in one["text"]) for cell in code_cells(notebook)]
    first = [re.sub(r"-?[\d.,]+|nan", "0", text.splitlines()[0]) for text in texts]
    return [re.sub(r"finished before|done in 0 s", "done", line) for line in first]


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


@pytest.mark.slow
def test_its_cells_run_and_begin_as_its_outputs_do(script: ModuleType, finished: Path) -> None:
    kept = json.loads(script.FILE.read_text())
    again = json.loads(script.FILE.read_text())
    script.run_cells(again)
    assert [cell["execution_count"] for cell in code_cells(kept)] == list(range(1, len(code_cells(kept)) + 1))
    assert printed(again) == printed(kept)


def test_a_cell_that_fails_ends_it(script: ModuleType) -> None:
    failing = {
        "cells": [{"cell_type": "code", "source": ["x = 1\n", "print(x)"]}, {"cell_type": "code", "source": ["y"]}]
    }
    with pytest.raises(NameError, match="'y'"):
        script.run_cells(failing)
    assert failing["cells"][0]["outputs"] == [{"name": "stdout", "output_type": "stream", "text": ["1\n"]}]
