"""A stage is a process: what it says and takes comes back, and what stops the run stops it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.command_line import ROOT, working_directory
from helpers.small_runs import write_prompt_file

from specs_lightning.runs.processes import CommandFailed, run_command
from specs_lightning.system.signals import Stopped


def data_check(prompts: Path, output: Path) -> list[str]:
    """A command that ends soon: it reads a data set."""
    config = output.with_suffix(".yaml")
    config.write_text(json.dumps({"data": {"path": str(prompts)}}))
    return ["data", "check", f"--config={config}", f"--output={output}"]


@pytest.mark.slow
def test_a_command_has_a_process_of_its_own_and_its_time_comes_back(tmp_path: Path) -> None:
    with working_directory(ROOT):
        seconds = run_command(data_check(write_prompt_file(tmp_path / "data", 3), tmp_path / "check"), "checking")
    assert (tmp_path / "check" / "check.json").exists()
    assert 0 < seconds < 120


@pytest.mark.slow
def test_what_went_wrong_is_told_by_whoever_watches(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match=r"`specs data check .*`: specs data check: .*nowhere"):
        run_command(data_check(tmp_path / "nowhere.jsonl", tmp_path / "check"), "checking")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "raised"), [(signal.SIGTERM, Stopped), (signal.SIGINT, CommandFailed), (signal.SIGKILL, CommandFailed)]
)
def test_a_command_that_is_stopped_alone_ends_the_run(tmp_path: Path, sent: int, raised: type) -> None:
    """By a person, or by a system that is out of memory: a process of the benchmark's kind, that stops itself."""
    module = tmp_path / "stops.py"
    module.write_text(
        "import os\nfrom specs_lightning.data.schemas import Schema\n"
        f"class Stops(Schema):\n    def read(self, row):\n        os.kill(os.getpid(), {sent})\n        return row\n"
    )
    config = tmp_path / "distill.yaml"
    prompts = write_prompt_file(tmp_path / "data", 3)
    config.write_text(
        json.dumps({"zero": "toy:base", "base": "toy:base", "prompts": {"path": str(prompts), "schema": "stops.Stops"}})
    )
    with working_directory(tmp_path), pytest.raises(raised):
        run_command(["distill", f"--config={config}", f"--output={tmp_path / 'out'}"], "stopping")


@pytest.mark.slow
def test_a_command_ends_with_the_one_that_watches_it_however_that_ends(tmp_path: Path) -> None:
    """`kill -9` of the watching process leaves none behind."""
    watcher = """
import sys
from specs_lightning.runs.processes import run_command
if __name__ == "__main__":
    run_command(["data", "check", f"--config={sys.argv[1]}", f"--output={sys.argv[2]}"], "waiting")
"""
    (tmp_path / "watcher.py").write_text(watcher)
    (tmp_path / "waits.py").write_text(
        "import os, pathlib, time\nfrom specs_lightning.data.schemas import Schema\n"
        "class Waits(Schema):\n    def read(self, row):\n"
        "        pathlib.Path('pid').write_text(str(os.getpid()))\n        time.sleep(300)\n        return row\n"
    )
    prompts = write_prompt_file(tmp_path / "data", 3)
    (tmp_path / "check.yaml").write_text(json.dumps({"data": {"path": str(prompts), "schema": "waits.Waits"}}))
    command = [sys.executable, "watcher.py", "check.yaml", "check"]
    watching = subprocess.Popen(command, cwd=tmp_path)
    try:
        stage = _when_there(tmp_path / "pid")
    finally:
        watching.kill()
        watching.wait()
    for _ in range(100):
        if not _lives(stage):
            return
        time.sleep(0.1)
    raise AssertionError("the stage lives on")


def _when_there(file: Path) -> int:
    for _ in range(1800):
        if file.exists() and file.read_text():
            return int(file.read_text())
        time.sleep(0.1)
    raise AssertionError("the stage did not start")


def _lives(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
