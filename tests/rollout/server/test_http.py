"""`specs serve` over HTTP: what it takes, from whom, and what it refuses."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from helpers.vllm_servers import SECRET, FakeSampler
from starlette.testclient import TestClient

from specs_lightning.rollout import EngineError
from specs_lightning.rollout.server import http
from specs_lightning.rollout.server.http import application
from specs_lightning.rollout.server.served import FolderRule, ServedSampler
from specs_lightning.rollout.tokens import TOKEN_ENV, token_for


@pytest.fixture
def any_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked before vLLM is needed is refused without it, too."""
    monkeypatch.setattr("specs_lightning.rollout.server.http.check_vllm", lambda: None)


@pytest.mark.usefixtures("any_vllm")
def test_a_taken_port_is_said_before_anything_is_loaded(tiny_model_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(EngineError, match=f"127.0.0.1:{port} .*choose another --port"):
            http.serve(str(tiny_model_path), port=port)


def asking(served: ServedSampler, url: str = "http://127.0.0.1:8000", **settings: Any) -> TestClient:
    """A client with the token."""
    app = application(served, SECRET, FolderRule(None, True), **settings)
    return TestClient(app, base_url=url, headers={"Authorization": f"Bearer {SECRET}"})


@pytest.mark.parametrize("name", ["evil.com", "127.0.0.1.nip.io", "localhost.evil.com", "127.0.0.1@evil.com", ""])
@pytest.mark.bad_input("servers' requests")
def test_a_name_that_is_not_the_servers_gets_no_answer_with_the_token_either(served: ServedSampler, name: str) -> None:
    """A page at `evil.com` that has its name mean this machine is of one origin with what it asks then."""
    client = asking(served, names=["node7"])
    for method, path in (("GET", "/health"), ("POST", "/generate"), ("POST", "/weights"), ("POST", "/weights/group")):
        answer = client.request(method, path, headers={"Host": f"{name}:8000"})
        assert answer.status_code == 403
        assert "this server is not called " in answer.json()["error"] and "--names" in answer.json()["error"]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "Node7", "node7.", "10.0.0.7"])
def test_it_answers_to_this_machines_names_to_those_given_and_to_the_address_that_was_reached(
    served: ServedSampler, host: str
) -> None:
    client = asking(served, "http://10.0.0.7:8000", names=["0.0.0.0", "NODE7"])
    assert client.get("/health", headers={"Host": f"{host}:8000"}).status_code == 200


@pytest.mark.usefixtures("any_vllm")
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_server_without_a_token_makes_one_and_answers_to_what_it_was_told(
    tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, host: str
) -> None:
    monkeypatch.setenv("MY_TOKEN", " ")
    monkeypatch.setenv("SPECS_CACHE", str(tmp_path))
    monkeypatch.setattr(http, "VLLMSampler", lambda *unused: FakeSampler())
    monkeypatch.setattr(http, "installed_vllm", lambda: "0")
    found: list[int] = []

    def look(app: Any, listener: socket.socket) -> None:
        shown = token_for("localhost", listener.getsockname()[1], "MY_TOKEN")
        for name, token in ((host, None), (host, "x"), (host, shown), ("gpu-node", shown), ("evil.com", shown)):
            client = TestClient(app, base_url=f"http://{name}", headers={"Authorization": f"Bearer {token}"})
            found.append(client.post("/generate", json={}).status_code)

    monkeypatch.setattr(http, "_run", look)
    http.serve(str(tiny_model_path), host=host, port=0, token_env="MY_TOKEN", names=["gpu-node"])
    assert found == [401, 401, 400, 400, 403]


SERVER = """
import sys
from helpers.vllm_servers import FakeSampler
from specs_lightning.rollout.server import http
http.check_vllm = lambda: None
http.installed_vllm = lambda: "0"
http.VLLMSampler = lambda *unused: FakeSampler()
http.serve(sys.argv[1], port=0)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_is_stopped_takes_its_token_with_it(
    tiny_model_path: Path, tmp_path: Path, number: signal.Signals
) -> None:
    environment = {**os.environ, "SPECS_CACHE": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop(TOKEN_ENV, None)
    command = [sys.executable, "-c", SERVER, str(tiny_model_path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        for line in server.stdout:
            if line.startswith("trainings sample from it"):
                break
        tokens = [file for file in tmp_path.rglob("*") if file.is_file()]
        # It may not wait for connections yet, when a signal would end it as any process.
        address = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        assert address and len(tokens) == 1
        urllib.request.urlopen(f"{address[0]}/health", timeout=60).read()
        server.send_signal(number)
        assert server.stdout.read().endswith("stopped; the same command serves again\n")
    assert server.returncode == 0 and not tokens[0].exists()


def test_everything_but_health_needs_the_token(served: ServedSampler) -> None:
    client = TestClient(application(served, SECRET, FolderRule(None, True)), base_url="http://localhost")
    assert client.get("/health").status_code == 200
    for path in ("/generate", "/weights", "/weights/group", "/weights/broadcast", "/docs", "/"):
        for headers in ({}, {"Authorization": SECRET}, {"Authorization": f"Bearer {SECRET}x"}):
            answer = client.post(path, json={}, headers=headers)
            assert (answer.status_code, answer.json()) == (401, {"error": "the token is missing or wrong"})
    assert client.post("/generate", json={}, headers={"Authorization": f"Bearer {SECRET}"}).status_code == 400


def test_there_are_no_other_endpoints(served: ServedSampler) -> None:
    client = asking(served)
    for path in ("/docs", "/openapi.json", "/collective_rpc", "/pause", "/v1/completions", "/metrics", "/shutdown"):
        assert (client.get(path).status_code, client.post(path, json={}).status_code) == (404, 404)


def test_what_is_no_request_is_refused_unread(served: ServedSampler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("specs_lightning.rollout.server.http.MAX_REQUEST_BYTES", 100)
    client = asking(served)
    form = client.post("/weights", content="{}", headers={"Content-Type": "text/plain"})
    endless = client.post("/weights", content=iter([b"{}"]), headers={"Content-Type": "application/json"})
    large = client.post("/weights", json={"folder": "x" * 100})
    assert [answer.status_code for answer in (form, endless, large)] == [415, 411, 413]


REQUEST = '{"prompt_id": "", "template_ids": [], "expanded_ids": [], "images": ["ä"], "seed": 1}'


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/generate", "[1", "JSONDecodeError"),
        ("/generate", "[1]", "TypeError"),
        ("/generate", "{}", "'request'"),
        ("/generate", f'{{"request": {REQUEST.replace("ä", "")}, "sampling": {{"warmth": 1}}}}', "warmth"),
        ("/generate", f'{{"request": {REQUEST}}}', "ASCII"),
        ("/weights", '{"folder": "/", "weights_id": "a", "version": "b"}', "ValueError"),
        ("/weights/group", "{}", "'host'"),
        ("/weights/broadcast", "{}", "'layout'"),
    ],
)
@pytest.mark.bad_input("servers' requests")
def test_what_cannot_be_read_is_the_requests_fault(served: ServedSampler, path: str, body: str, said: str) -> None:
    client = asking(served)
    answer = client.post(path, content=body.encode(), headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert "the request cannot be read" in answer.json()["error"] and said in answer.json()["error"]
