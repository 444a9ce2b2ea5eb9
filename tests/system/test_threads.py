"""A command's threads sleep while they wait, and are no more than the cores, unless the user says otherwise."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from specs_lightning.system import threads
from specs_lightning.system.threads import ASLEEP, WAITING, allowed_cores, prepare_threads


@pytest.fixture
def control_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Made up, on a machine of 16 cores: no groups yet."""
    monkeypatch.setattr(threads, "own_cores", lambda: 16)
    monkeypatch.setattr(threads, "CONTROL_GROUPS", tmp_path)
    monkeypatch.setattr(threads, "MEMBERSHIP", tmp_path / "membership")
    return tmp_path


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_", ".", 1)).write_text(text + "\n")


class TestCores:
    def test_without_groups_they_are_those_of_the_affinity(self, control_groups: Path) -> None:
        assert allowed_cores() == 16

    def test_version_2_the_least_of_the_group_and_those_above_it(self, control_groups: Path) -> None:
        (control_groups / "membership").write_text("0::/pod/container\n")
        write(control_groups / "pod", cpu_max="350000 100000")
        write(control_groups / "pod" / "container", cpu_max="max 100000")
        assert allowed_cores() == 3
        write(control_groups / "pod" / "container", cpu_max="50000 100000")
        assert allowed_cores() == 1

    def test_version_1_of_the_cpu_controller_alone(self, control_groups: Path) -> None:
        (control_groups / "membership").write_text("5:memory:/job\n4:cpu,cpuacct:/job\n")
        group = control_groups / "cpu,cpuacct"
        write(group / "job", cpu_cfs_quota_us="400000", cpu_cfs_period_us="100000")
        write(group, cpu_cfs_quota_us="-1", cpu_cfs_period_us="100000")
        write(control_groups / "memory" / "job", cpu_max="100000 100000")
        assert allowed_cores() == 4

    def test_a_container_that_sees_its_own_group_as_the_root(self, control_groups: Path) -> None:
        (control_groups / "membership").write_text("0::/somewhere/outside\n")
        write(control_groups, cpu_max="200000 100000")
        assert allowed_cores() == 2


class TestEnvironment:
    def test_waiting_threads_sleep(self) -> None:
        environment: dict[str, str] = {}
        prepare_threads(environment)
        assert environment.items() >= ASLEEP.items()

    @pytest.mark.parametrize("name", WAITING)
    def test_who_has_said_how_they_wait_has_chosen(self, name: str) -> None:
        environment = {name: "7"}
        prepare_threads(environment)
        assert {key: environment.get(key) for key in WAITING} == {key: "7" if key == name else None for key in WAITING}

    def test_a_quota_bounds_their_number_and_without_one_torch_decides(self, control_groups: Path) -> None:
        free: dict[str, str] = {}
        prepare_threads(free)
        (control_groups / "membership").write_text("0::/\n")
        write(control_groups, cpu_max="200000 100000")
        bounded: dict[str, str] = {}
        chosen = {"OMP_NUM_THREADS": "5"}
        prepare_threads(bounded)
        prepare_threads(chosen)
        assert "OMP_NUM_THREADS" not in free
        assert bounded["OMP_NUM_THREADS"] == "2" and chosen["OMP_NUM_THREADS"] == "5"


PREPARED = "from specs_lightning.commands.process import prepare_process\nprepare_process()"


def loaded_with(code: str) -> dict[str, str]:
    """What OpenMP says that it goes by, in a new process that runs this and then loads torch."""
    # vLLM, if a test of it ran before, has OpenMP loaded before anything else.
    left = {name: value for name, value in os.environ.items() if name not in (*WAITING, "LD_PRELOAD")}
    command = [sys.executable, "-c", f"{code}\nimport torch"]
    asked = left | {"OMP_DISPLAY_ENV": "verbose"}
    told = subprocess.run(command, env=asked, capture_output=True, text=True, check=True)
    lines = (line.partition(" = ") for line in told.stderr.splitlines())
    return {name.split()[-1]: value.strip("'") for name, found, value in lines if found}


@pytest.mark.skipif(sys.platform != "linux", reason="there torch brings another OpenMP")
def test_a_commands_threads_sleep_as_openmp_has_read_it_and_the_librarys_are_left_alone() -> None:
    command, library = loaded_with(PREPARED), loaded_with("import specs_lightning.groups")
    assert int(command["GOMP_SPINCOUNT"]) < 1000 < int(library["GOMP_SPINCOUNT"])
