"""`specs --completion` in a bash that believes to be at a terminal."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
from pathlib import Path

import pytest

from specs_lightning.cli import COMMANDS
from specs_lightning.commands.completion import bash

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")


def completed(typed: str, folder: Path) -> str:
    """The arguments of `specs` when this was typed, tabs included, and ended by Enter."""
    (folder / "completion").write_text(bash(COMMANDS))
    told = folder / "told"
    terminal, its_end = pty.openpty()
    given = f'. ./completion\nspecs() {{ echo "$*" > {told}; }}\n{typed}\nexit\n'
    command = ["bash", "--norc", "--noprofile", "-i"]
    environment = {**os.environ, "TERM": "dumb", "HISTFILE": "", "INPUTRC": os.devnull}
    with subprocess.Popen(
        command, stdin=its_end, stdout=its_end, stderr=its_end, cwd=folder, env=environment, start_new_session=True
    ) as shell:
        os.close(its_end)
        os.write(terminal, given.encode())
        while shell.poll() is None:
            try:
                os.read(terminal, 65536)  # it waits for a reader
            except OSError:  # it has ended
                break
        os.close(terminal)
    return told.read_text().strip()


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("specs f\t", "fit"),
        ("specs data \t", "data check"),
        ("specs run --config toy/sm\t", "run --config toy/smoke.yaml"),
        ("specs run --config=toy/sm\t", "run --config=toy/smoke.yaml"),
        ("specs run --pr\t", "run --print_config"),
        ("specs compare ablations/beta_l\t", "compare ablations/beta_low.yaml"),
        ("specs report my_r\t", "report my_run/"),
    ],
)
def test_a_tab_completes(typed: str, meant: str, tmp_path: Path) -> None:
    (tmp_path / "my_run").mkdir()
    assert completed(typed, tmp_path) == meant
