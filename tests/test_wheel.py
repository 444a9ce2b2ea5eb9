"""What is installed works from any folder: configurations and toy model come with it."""

from __future__ import annotations

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


def specs(installed: Path, cwd: Path, *args: str) -> str:
    program = "import sys, specs_lightning.cli as cli; assert 'site' in cli.__file__; cli.main(sys.argv[1:])"
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program, *args], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_holds_what_the_package_needs_and_nothing_else(installed: Path) -> None:
    package = installed / "specs_lightning"
    shipped = {str(file.relative_to(ROOT)) for file in (ROOT / "configs").rglob("*.yaml")}
    assert {str(file.relative_to(package)) for file in (package / "configs").rglob("*.yaml")} == shipped
    assert (package / "toy" / "base_model" / "model.safetensors").is_file()
    assert (package / "commands" / "project" / "specs.yaml").is_file()
    assert {place.name for place in installed.iterdir() if "dist-info" not in place.name} == {"specs_lightning"}


def test_a_configuration_trains_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    small = ["--data.rounds=1", "--data.prompts_per_round=2", "--data.sampling.max_tokens=16", "--trainer.callbacks=[]"]
    specs(installed, tmp_path, "fit", "--config=toy/grpo.yaml", *small)
    assert (tmp_path / "runs" / "toy-grpo" / "model" / "model.safetensors").is_file()


def test_so_does_what_names_others_and_a_new_project(installed: Path, tmp_path: Path) -> None:
    assert "cold_start" in specs(installed, tmp_path, "run", "--config=toy/specs.yaml", "--print_config")
    assert "beta" in specs(installed, tmp_path, "run", "--config=ablations/beta_low.yaml", "--print_config")
    assert "cd mine" in specs(installed, tmp_path, "init", "mine")
