"""The command `specs`: which commands there are, and how each of them ends."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.command_line import refused, specs

from specs_lightning import __version__
from specs_lightning.cli import COMMANDS
from specs_lightning.errors import SpecsError
from specs_lightning.system.progress import TITLE
from specs_lightning.system.signals import INTERRUPTED, STOPPED, Stopped


class TestUsage:
    @pytest.mark.parametrize("args", [(), ("--help",), ("-h",)])
    def test_it_lists_every_command(self, args: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
        specs(*args)
        shown = capsys.readouterr().out
        assert shown.startswith("usage: specs COMMAND")
        assert all(f"  {command} " in shown for command in COMMANDS)

    def test_the_version(self, capsys: pytest.CaptureFixture[str]) -> None:
        specs("--version")
        assert capsys.readouterr().out.strip() == f"specs-lightning {__version__}"

    def test_an_unknown_command_is_named(self, capsys: pytest.CaptureFixture[str]) -> None:
        message = refused(capsys, "train", "--config=x.yaml")
        assert "unknown command 'train'" in message and "usage: specs" in message

    @pytest.mark.parametrize("command", ["run", "distill", "fit", "report"])
    def test_every_command_explains_its_settings(self, command: str, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as exit:
            specs(command, "--help")
        assert exit.value.code == 0
        shown = capsys.readouterr().out
        assert "run_dir" in shown if command in ("run", "report") else "--config" in shown


class TestEndings:
    """Of a command that does nothing but end."""

    @pytest.fixture
    def ends(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
        """Has `specs report` return a value, or raise an error."""

        def put(ending: Any) -> None:
            def report(run_dir: str) -> Any:
                if isinstance(ending, BaseException):
                    raise ending
                return ending

            monkeypatch.setattr("specs_lightning.report.page.report", report)

        return put

    @pytest.mark.parametrize("found", [None, True, "report.html"])
    def test_one_that_returns_ends_well(self, ends: Any, found: Any) -> None:
        ends(found)
        specs("report", "run")

    def test_one_that_found_fault_has_a_status_of_failure(self, ends: Any) -> None:
        ends(False)
        with pytest.raises(SystemExit) as exit:
            specs("report", "run")
        assert exit.value.code == 1

    def test_a_known_error_is_a_line_and_a_traceback_where_one_is_asked_for(
        self, ends: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ends(SpecsError("no such run"))
        assert refused(capsys, "report", "run") == "specs report: no such run\n(SPECS_TRACEBACK=1 shows where)"
        monkeypatch.setenv("SPECS_TRACEBACK", "1")
        with pytest.raises(SpecsError, match="no such run"):
            specs("report", "run")

    def test_only_a_full_disk_is_an_error_of_the_system_that_is_told(
        self, ends: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        ends(OSError(errno.ENOSPC, "No space left on device"))
        assert "No space left on device. Make room." in refused(capsys, "report", "run")
        ends(OSError(errno.EACCES, "Permission denied"))
        with pytest.raises(PermissionError):
            specs("report", "run")

    def test_a_full_disk_is_told_with_file_and_folder_whatever_a_library_made_of_it(
        self, ends: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        hidden = RuntimeError("unexpected pos 704 vs 598")
        hidden.__context__ = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "model"))
        ends(hidden)
        said = f"specs report: No space left on device for model in {tmp_path}. Make room."
        assert said in refused(capsys, "report", "run")

    @pytest.mark.parametrize("status", [0, None])
    def test_an_exit_that_something_calls_for_is_no_success(
        self, ends: Any, capsys: pytest.CaptureFixture[str], status: int | None
    ) -> None:
        ends(SystemExit(status))
        assert "something called sys.exit() before it was done" in refused(capsys, "report", "run")

    def test_an_exit_with_a_status_of_failure_keeps_it(self, ends: Any) -> None:
        ends(SystemExit(3))
        with pytest.raises(SystemExit) as exit:
            specs("report", "run")
        assert exit.value.code == 3

    def test_ctrl_c_is_a_sentence(self, ends: Any, capsys: pytest.CaptureFixture[str]) -> None:
        ends(KeyboardInterrupt())
        with pytest.raises(SystemExit) as exit:
            specs("report", "run")
        assert exit.value.code == INTERRUPTED == 130
        assert capsys.readouterr().err == "specs report: interrupted. The same command begins anew.\n"

    @pytest.mark.parametrize("ending", [KeyboardInterrupt(), Stopped()])
    def test_of_a_stage_that_ends_so_its_run_tells(
        self, ends: Any, ending: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        ends(ending)
        monkeypatch.setenv(TITLE, "[1/6] base")
        assert refused(capsys, "report", "run") == ""

    def test_ctrl_c_in_making_pairs_says_how_to_go_on(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def distill(output: str) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)

        monkeypatch.setattr("specs_lightning.distill.pairs.distill", distill)
        said = refused(capsys, "distill", "--output=pairs")
        assert said == "specs distill: interrupted. The same command goes on from there.\n"

    def test_one_that_was_stopped_has_a_status_of_its_own(self, ends: Any, capsys: pytest.CaptureFixture[str]) -> None:
        for stop, by in ((Stopped(), "SIGTERM"), (Stopped(signal.SIGHUP), "SIGHUP")):
            ends(stop)
            with pytest.raises(SystemExit) as exit:
                specs("report", "run")
            assert exit.value.code == STOPPED
            assert f"specs report: stopped by {by}." in capsys.readouterr().err
