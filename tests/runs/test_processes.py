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
from specs_lightning.runs.processes import CommandFailed, run_command
from specs_lightning.system.progress import ProgressRecord
from specs_lightning.system.signals import Stopped


def data_check(prompts: Path, output: Path) -> list[str]:
    """A command that ends soon: it reads a data set."""
    config = output.with_suffix(".yaml")
    config.write_text(json.dumps({"data": {"path": str(prompts)}}))
    return ["data", "check", f"--config={config}", f"--output={output}"]


@pytest.mark.slow
def test_a_command_has_a_process_of_its_own_and_its_time_comes_back(tmp_path: Path) -> None:
    command = data_check(write_prompt_file(tmp_path / "data", 300), tmp_path / "check")
    with working_directory(ROOT), seen_in(tmp_path) as told:
        seconds = run_command(command, "checking", tmp_path)
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
def test_what_went_wrong_is_told_by_whoever_watches(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match=r"`specs data check .*`: specs data check: .*nowhere"):
        run_command(data_check(tmp_path / "nowhere.jsonl", tmp_path / "check"), "checking")


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
        run_command(["distill", f"--config={config}", f"--output={tmp_path / 'out'}"], "stopping")


class Watched:
    """Stands in for a process that ends when it is asked to the last time; notes the signals that it is sent."""

    pid, exitcode = 4242, processes.STOPPED

    def __init__(self, *stops: BaseException) -> None:
        self.stops = list(stops)
        self.sent: list[int] = []

    def start(self) -> None:
        """It has."""

    def join(self) -> None:
        if self.stops:
            raise self.stops.pop(0)

    def killpg(self, group: int, number: int) -> None:
        assert group == self.pid
        self.sent.append(number)


@pytest.mark.parametrize(
    ("stops", "handed_on"),
    [
        ([Stopped()], [signal.SIGTERM]),
        ([Stopped(signal.SIGHUP)], [signal.SIGHUP]),
        ([KeyboardInterrupt()], [signal.SIGINT]),
        ([KeyboardInterrupt(), KeyboardInterrupt()], [signal.SIGINT, signal.SIGKILL]),
        ([Stopped(), KeyboardInterrupt()], [signal.SIGTERM, signal.SIGKILL]),
    ],
    ids=["SIGTERM", "SIGHUP", "Ctrl-C", "Ctrl-C twice", "SIGTERM, then Ctrl-C"],
)
def test_what_stops_the_run_is_handed_on_and_the_commands_end_waited_for(
    monkeypatch: pytest.MonkeyPatch, stops: list[BaseException], handed_on: list[int]
) -> None:
    watched, raised = Watched(*stops), type(stops[0])
    context = SimpleNamespace(get_start_method=lambda: "fork", Pipe=multiprocessing.Pipe, Process=lambda **_: watched)
    monkeypatch.setattr(processes, "CONTEXT", context)
    monkeypatch.setattr(processes.os, "killpg", watched.killpg)
    with pytest.raises(raised):
        run_command(["fit"], "training")
    assert watched.sent == handed_on and watched.stops == []


def test_a_command_whose_process_ends_before_it_has_said_so_is_not_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the status of success: by `os._exit(0)` in a callback."""
    watched = Watched()
    watched.exitcode = 0
    context = SimpleNamespace(get_start_method=lambda: "fork", Pipe=multiprocessing.Pipe, Process=lambda **_: watched)
    monkeypatch.setattr(processes, "CONTEXT", context)
    with pytest.raises(CommandFailed, match="`specs fit`: exit status 0, before it was done"):
        run_command(["fit"], "training")


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
