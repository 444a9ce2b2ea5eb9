"""A judge in a training run: one place in the settings, asked in rewards and evaluation, its cost kept, its key not."""

import csv
import json
from pathlib import Path

import pytest
from helpers.command_line import specs
from helpers.judge_servers import data_of, judge_server, verdict
from helpers.small_runs import write_prompt_file

KEY = "sk-secret-0123456789"


def fit(tmp_path: Path, url: str, **settings: str) -> Path:
    file = write_prompt_file(tmp_path / "data", 4)
    rows = [json.loads(line) | {"answer": "a couple", "answer_type": "text"} for line in file.read_text().splitlines()]
    file.write_text("\n".join(map(json.dumps, rows)))
    specs(
        "fit",
        "--config=configs/toy/grpo.yaml",
        f"--data.train={{path: {file}}}",
        f"--data.judge={{model: judge-1, base_url: '{url}', cache: {tmp_path / 'judge.sqlite'}}}",
        "--data.sampling={completions_per_prompt: 3, max_tokens: 64}",
        "--data.prompts_per_round=4",
        "--data.steps_per_round=2",
        "--data.rounds=1",
        "--trainer.callbacks=[]",
        f"--trainer.default_root_dir={tmp_path / 'run'}",
        *(f"--{name}={value}" for name, value in settings.items()),
    )
    return tmp_path / "run"


def test_it_is_asked_and_its_cost_is_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with judge_server(lambda request, number: verdict(request, "correct" if number % 2 else "incorrect")) as server:
        run = fit(tmp_path, server.url)
        asked = len(server.requests)
    assert asked > 0
    assert {data_of(request)["reference answer"] for request in server.requests} == {"a couple"}
    (cost,) = [json.loads(line) for line in (run / "judge.jsonl").read_text().splitlines()]
    assert (cost["requests"], cost["unscored"]) == (asked, 0)
    with (run / "metrics.csv").open() as file:
        first = next(csv.DictReader(file))
    assert float(first["train/judge/requests"]) == asked
    assert float(first["train/judge/tokens"]) == asked * 110
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert run / "config.yaml" in written
    assert not [path for path in written if KEY.encode() in path.read_bytes()]


def test_an_endpoint_that_is_not_there_is_refused_before_anything_is_sampled(tmp_path: Path) -> None:
    with judge_server() as server:
        url = server.url
    with pytest.raises(SystemExit, match="judge unreachable: "):
        fit(tmp_path, url)
    assert not list((tmp_path / "run").rglob("metrics.csv"))
