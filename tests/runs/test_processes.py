"""A stage is a process: what it says and takes comes back, and what stops the run stops it."""

from __future__ import annotations

import json
import multiprocessing
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.command_line import ROOT, working_directory
from helpers.small_runs import write_prompt_file

from specs_lightning.records.progress import PROGRESS
from specs_lightning.runs import processes
from specs_lightning.runs.processes import Command, CommandFailed, StartedCommand
from specs_lightning.system.progress import ProgressRecord
from specs_lightning.system.signals import Stopped


def run(args: list[str], title: str) -> float:
    return StartedCommand(Command(args, title)).wait()


def data_check(prompts: Path, output: Path) -> list[str]:
    """A command that ends soon: it reads a data set."""
    config = output.with_suffix(".yaml")
    config.write_text(json.dumps({"data": {"path": str(prompts)}}))
    return ["data", "check", f"--config={config}", f"--output={output}"]


@pytest.mark.slow
def test_a_command_has_a_process_of_its_own_and_its_time_comes_back(tmp_path: Path) -> None:
    args = data_check(write_prompt_file(tmp_path / "data", 300), tmp_path / "check")
    with working_directory(ROOT), seen_in(tmp_path) as told:
        seconds = StartedCommand(Command(args, "checking", tmp_path)).wait()
    assert (tmp_path / "check" / "check.json").exists()
    assert 0 < seconds < 120
    assert {(one.done, one.total) for one in told} >= {(0, 300)} and PROGRESS.read(tmp_path) is None


@contextmanager
def seen_in(folder: Path) -> Iterator[list[ProgressRecord]]:
    """What is told in a folder while something goes on."""
    found: list[ProgressRecord] = []
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.002):
            if record := PROGRESS.read(folder):
                found.append(record)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


@pytest.mark.slow
def test_a_command_beside_others_has_its_share_of_the_threads_and_tells_of_its_progress_in_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It notes what it has as it reads its first row."""
    (tmp_path / "notes.py").write_text(
        "import json, os, pathlib, torch\nfrom specs_lightning.data.schemas import Schema\n"
        "from specs_lightning.system.progress import BESIDE_OTHERS\n"
        "class Notes(Schema):\n    def read(self, row):\n"
        "        own = [torch.get_num_threads(), os.environ.get('OMP_NUM_THREADS'), BESIDE_OTHERS in os.environ]\n"
        "        pathlib.Path('noted.json').write_text(json.dumps(own))\n        return row\n"
    )
    prompts = write_prompt_file(tmp_path / "data", 3)
    (tmp_path / "check.yaml").write_text(json.dumps({"data": {"path": str(prompts), "schema": "notes.Notes"}}))
    command = Command(["data", "check", "--config=check.yaml", "--output=check"], "checking")
    noted = []
    with working_directory(tmp_path):
        for share in (1, 1000):
            StartedCommand(command, share).wait()
            noted.append(json.loads((tmp_path / "noted.json").read_text()))
    alone, beside = noted
    assert not alone[2] and beside == [1, "1", True]


@pytest.mark.slow
def test_what_went_wrong_is_told_by_whoever_watches(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match=r"`specs data check .*`: specs data check: .*nowhere"):
        run(data_check(tmp_path / "nowhere.jsonl", tmp_path / "check"), "checking")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "raised", "said"),
    [
        (signal.SIGTERM, Stopped, ""),
        (signal.SIGINT, CommandFailed, "exit status 130"),
        (signal.SIGKILL, CommandFailed, "killed by signal 9"),
    ],
)
def test_a_command_that_is_stopped_alone_ends_the_run(tmp_path: Path, sent: int, raised: type, said: str) -> None:
    """By a person, or by a system that is out of memory. It stops itself as it reads its first row."""
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
    with working_directory(tmp_path), pytest.raises(raised, match=said):
        run(["distill", f"--config={config}", f"--output={tmp_path / 'out'}"], "stopping")


def test_a_command_whose_process_ends_before_it_has_said_so_is_not_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the status of success: by `os._exit(0)` in a callback."""
    process = SimpleNamespace(pid=4242, exitcode=0, start=lambda: None, join=lambda: None)
    context = SimpleNamespace(get_start_method=lambda: "fork", Pipe=multiprocessing.Pipe, Process=lambda **_: process)
    monkeypatch.setattr(processes, "CONTEXT", context)
    with pytest.raises(CommandFailed, match="`specs fit`: exit status 0, before it was done"):
        run(["fit"], "training")


@pytest.mark.slow
def test_a_command_ends_with_the_one_that_watches_it_however_that_ends(tmp_path: Path) -> None:
    """`kill -9` of the watching process leaves none behind."""
    watcher = """
import sys
from specs_lightning.runs.processes import Command, StartedCommand
if __name__ == "__main__":
    args = ["data", "check", f"--config={sys.argv[1]}", f"--output={sys.argv[2]}"]
    StartedCommand(Command(args, "waiting")).wait()
"""
    (tmp_path / "watcher.py").write_text(watcher)
    (tmp_path / "waits.py").write_text(
        "import os, pathlib, time\nfrom specs_lightning.data.schemas import Schema\n"
        "class Waits(Schema):\n    def read(self, row):\n"
        "        pathlib.Path('part').write_text(str(os.getpid()))\n        os.rename('part', 'pid')\n"
        "        time.sleep(300)\n        return row\n"
    )
    prompts = write_prompt_file(tmp_path / "data", 3)
    (tmp_path / "check.yaml").write_text(json.dumps({"data": {"path": str(prompts), "schema": "waits.Waits"}}))
    command = [sys.executable, "watcher.py", "check.yaml", "check"]
    watching = subprocess.Popen(command, cwd=tmp_path)
    try:
        while not (tmp_path / "pid").exists():
            assert watching.poll() is None, "the stage did not start"
            time.sleep(0.1)
    finally:
        watching.kill()
        watching.wait()
    stage = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 60
    while _lives(stage):
        assert time.monotonic() < deadline, "the stage lives on"
        time.sleep(0.1)


def _lives(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
