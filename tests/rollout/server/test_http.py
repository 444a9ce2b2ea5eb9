"""`specs serve` over HTTP: what it takes, from whom, and what it refuses."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from helpers.server_checks import SECRET
from starlette.testclient import TestClient

from specs_lightning.rollout import EngineError
from specs_lightning.rollout.server.http import Guard, application, serve
from specs_lightning.rollout.server.served import FolderRule, ServedSampler


@pytest.fixture
def any_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked before vLLM is needed is refused without it, too."""
    monkeypatch.setattr("specs_lightning.rollout.server.http.check_vllm", lambda: None)


@pytest.mark.usefixtures("any_vllm")
def test_other_machines_need_a_token(tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", " ")
    for host in ("0.0.0.0", "::", "192.168.1.5", "node7"):
        with pytest.raises(EngineError, match=f"{host} can be reached from other machines.*MY_TOKEN"):
            serve(str(tiny_model_path), host=host, token_env="MY_TOKEN")


@pytest.mark.usefixtures("any_vllm")
def test_a_taken_port_is_said_before_anything_is_loaded(tiny_model_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(EngineError, match=f"127.0.0.1:{port} .*choose another --port"):
            serve(str(tiny_model_path), port=port)


def test_everything_but_health_needs_the_token(served: ServedSampler) -> None:
    client = TestClient(application(served, SECRET, FolderRule(None, True)))
    assert client.get("/health").status_code == 200
    for path in ("/generate", "/weights", "/weights/group", "/weights/broadcast", "/docs", "/"):
        for headers in ({}, {"Authorization": SECRET}, {"Authorization": f"Bearer {SECRET}x"}):
            answer = client.post(path, json={}, headers=headers)
            assert (answer.status_code, answer.json()) == (401, {"error": "the token is missing or wrong"})
    assert client.post("/generate", json={}, headers={"Authorization": f"Bearer {SECRET}"}).status_code == 400


def test_there_are_no_other_endpoints(served: ServedSampler) -> None:
    client = TestClient(application(served, None, FolderRule(None, True)))
    for path in ("/docs", "/openapi.json", "/collective_rpc", "/pause", "/v1/completions", "/metrics", "/shutdown"):
        assert (client.get(path).status_code, client.post(path, json={}).status_code) == (404, 404)


def test_what_is_no_request_is_refused_unread(served: ServedSampler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("specs_lightning.rollout.server.http.MAX_REQUEST_BYTES", 100)
    client = TestClient(Guard(application(served, None, FolderRule(None, True)), None))
    form = client.post("/weights", content="{}", headers={"Content-Type": "text/plain"})
    endless = client.post("/weights", content=iter([b"{}"]), headers={"Content-Type": "application/json"})
    large = client.post("/weights", json={"folder": "x" * 100})
    assert [answer.status_code for answer in (form, endless, large)] == [415, 411, 413]


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/generate", "[1", "JSONDecodeError"),
        ("/generate", "[1]", "TypeError"),
        ("/generate", "{}", "'requests'"),
        ("/generate", '{"requests": [], "sampling": {"top_p": 1}}', "top_p"),
        (
            "/generate",
            '{"requests": [{"prompt_id": "", "template_ids": [], "expanded_ids": [], "images": ["ä"]}]}',
            "",
        ),
        ("/weights", '{"folder": "/", "weights_id": "a", "version": "b"}', "ValueError"),
        ("/weights/group", "{}", "'host'"),
        ("/weights/broadcast", "{}", "'layout'"),
    ],
)
def test_what_cannot_be_read_is_the_requests_fault(served: ServedSampler, path: str, body: str, said: str) -> None:
    client = TestClient(application(served, None, FolderRule(None, True)))
    answer = client.post(path, content=body.encode(), headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert "the request cannot be read" in answer.json()["error"] and said in answer.json()["error"]
