"""What is installed works from any folder: configurations and toy model come with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from helpers.command_line import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's content, as an installer unpacks it; what it needs is there already."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


PROGRAM = """
import contextlib, json, sys
import specs_lightning.cli as cli
assert "site" in cli.__file__
for command in json.loads(sys.argv[1]):
    with contextlib.suppress(SystemExit):  # of --print_config, which ends so
        cli.main(command)
"""


def specs(installed: Path, cwd: Path, *commands: list[str]) -> str:
    """What these commands print, one after the other in a process that finds the package as it was installed."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-c", PROGRAM, json.dumps(commands)]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no library's warning, bar or advertisement
    return done.stdout


def test_it_holds_what_the_package_needs_and_nothing_else(installed: Path) -> None:
    package = installed / "specs_lightning"
    shipped = {str(file.relative_to(ROOT)) for file in (ROOT / "configs").rglob("*.yaml")}
    assert {str(file.relative_to(package)) for file in (package / "configs").rglob("*.yaml")} == shipped
    assert (package / "toy" / "base_model" / "model.safetensors").is_file()
    assert (package / "commands" / "project" / "specs.yaml").is_file()
    assert {place.name for place in installed.iterdir() if "dist-info" not in place.name} == {"specs_lightning"}


def test_configurations_are_found_in_an_empty_folder_and_a_new_project_is_made(installed: Path, tmp_path: Path) -> None:
    small = ["--data.rounds=1", "--data.prompts_per_round=2", "--data.sampling.max_tokens=16", "--trainer.callbacks=[]"]
    told = specs(
        installed,
        tmp_path,
        ["init", "mine"],
        ["run", "--config=ablations/beta_low.yaml", "--print_config"],
        ["fit", "--config=toy/grpo.yaml", *small],
    )
    assert "cd mine" in told and "beta: 0.02" in told and "litlogger" not in told
    assert (tmp_path / "runs" / "toy-grpo" / "model" / "model.safetensors").is_file()
