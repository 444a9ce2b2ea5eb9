"""A rollout server as the trainer sees it: what answers there, and what is sent to it."""

from __future__ import annotations

import http.server
import logging
import threading
from pathlib import Path
from typing import Any

import pytest
from helpers.server_checks import SAMPLING, MakeEngine, StartServer, assert_answered, assert_holds
from helpers.vllm_servers import SECRET

from specs_lightning.groups import EncodedPrompt
from specs_lightning.policy.policy import Policy
from specs_lightning.rollout import EngineError, VLLMServers, connection
from specs_lightning.rollout.tokens import TOKEN_ENV, server_token


def test_what_is_no_rollout_server_is_said_so(make: MakeEngine, policy: Policy) -> None:
    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *unused: Any) -> None:
            """Quiet."""

    other = http.server.HTTPServer(("127.0.0.1", 0), Other)
    threading.Thread(target=other.serve_forever, daemon=True).start()
    with pytest.raises(EngineError, match="what answers there is not `specs serve`"):
        VLLMServers([f"http://127.0.0.1:{other.server_port}"], start_timeout_s=0).sync(policy)
    other.shutdown()


def test_another_version_of_the_protocol_is_refused(
    start: StartServer, make: MakeEngine, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "PROTOCOL", 99)
    with pytest.raises(EngineError, match="another version of specs-lightning"):
        make(start()).sync(policy)


def test_a_password_in_an_address_is_refused_without_repeating_it() -> None:
    with pytest.raises(ValueError, match="the address of host holds a password") as error:
        VLLMServers([f"http://me:{SECRET}@host:8000"])
    assert SECRET not in str(error.value)


def test_the_right_token_is_taken_and_never_shown(
    start: StartServer,
    make: MakeEngine,
    policy: Policy,
    prompts: list[EncodedPrompt],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    caplog.set_level(logging.DEBUG)
    server = start(token=SECRET)
    monkeypatch.setenv(TOKEN_ENV, SECRET)
    engine = make(server, folder=str(tmp_path))
    engine.sync(policy)
    assert_answered(prompts, engine.generate(prompts, SAMPLING, "seed"))
    connections = [(server, vars(server), server.client.headers) for server in engine.servers]
    shown = f"{engine!r} {vars(engine)} {connections} {caplog.text} {capfd.readouterr()}"
    monkeypatch.setenv(TOKEN_ENV, "wrong-" + SECRET)
    with pytest.raises(EngineError, match=f"the token is missing or wrong. Set .*{TOKEN_ENV}") as error:
        make(server).sync(policy)
    assert SECRET not in f"{shown} {error.value} {caplog.text} {capfd.readouterr()}"
    assert not any(SECRET.encode() in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())


def test_a_training_on_the_same_machine_finds_the_token_that_a_server_made(
    start: StartServer, make: MakeEngine, policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start()
    engine = make(server)
    monkeypatch.delenv(TOKEN_ENV)
    monkeypatch.setenv("SPECS_CACHE", str(tmp_path))
    monkeypatch.setattr("secrets.token_urlsafe", lambda *unused: SECRET)
    with pytest.raises(EngineError, match=r"the token is missing or wrong.*that it printed at its start"):
        engine.sync(policy)
    with server_token(TOKEN_ENV, server.port):
        engine.sync(policy)
    assert_holds(server, policy)


def test_a_request_that_no_server_would_take_says_what_to_set(
    start: StartServer,
    make: MakeEngine,
    policy: Policy,
    prompts: list[EncodedPrompt],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = make(start())
    engine.sync(policy)
    monkeypatch.setattr(connection, "MAX_REQUEST_BYTES", 100)
    with pytest.raises(EngineError, match="make the prompt's images smaller"):
        engine.generate(prompts, SAMPLING, "seed")
