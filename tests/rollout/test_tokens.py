"""The servers' token: never none, never for another's eyes, and found by who may have it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from helpers.vllm_servers import SECRET

from specs_lightning.rollout import EngineError
from specs_lightning.rollout.tokens import TOKEN_ENV, server_token, token_for


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty one, and no token in the environment."""
    monkeypatch.delenv(TOKEN_ENV, raising=False)
    monkeypatch.setenv("SPECS_CACHE", str(tmp_path))
    return tmp_path


def test_one_that_is_made_is_told_as_the_others_setting_and_found_on_this_machine_while_the_server_runs(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    with server_token(TOKEN_ENV, 8000) as token:
        assert f"\nexport {TOKEN_ENV}={token}\n" in capsys.readouterr().out
        assert len(token) > 40
        assert token_for("127.0.0.1", 8000, TOKEN_ENV) == token_for("localhost", 8000, TOKEN_ENV) == token
        assert token_for("127.0.0.1", 8001, TOKEN_ENV) is None
        (file,) = folder.rglob("*.token")
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert token_for("127.0.0.1", 8000, TOKEN_ENV) is None


def test_each_start_makes_another(folder: Path) -> None:
    with server_token(TOKEN_ENV, 8000) as killed, server_token(TOKEN_ENV, 8000) as token:
        assert token not in (killed, "")
        assert token_for("127.0.0.1", 8000, TOKEN_ENV) == token


def test_one_of_this_machine_is_shown_to_no_other(folder: Path) -> None:
    with server_token(TOKEN_ENV, 8000):
        assert token_for("node7", 8000, TOKEN_ENV) is None
        assert token_for("10.0.0.7", 8000, TOKEN_ENV) is None


def test_the_environments_is_taken_on_both_sides_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    monkeypatch.setenv(TOKEN_ENV, f" {SECRET}\n")
    with server_token(TOKEN_ENV, 8000) as token:
        assert token == token_for("node7", 8000, TOKEN_ENV) == SECRET
    assert capsys.readouterr().out == "" and os.listdir(folder) == []


def test_where_none_can_be_left_one_is_asked_for(folder: Path) -> None:
    (folder / "servers").touch()
    with pytest.raises(EngineError, match=f"cannot be left in .*: put a secret into .* {TOKEN_ENV}"):
        server_token(TOKEN_ENV, 8000).__enter__()
