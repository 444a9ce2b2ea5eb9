"""An evaluation that is stopped goes on: nothing is drawn twice, and what comes out is the same."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers.command_line import specs
from helpers.small_runs import small_trainer, write_prompt_file

from specs_lightning.data import RolloutDataModule
from specs_lightning.data.sources import PromptSource
from specs_lightning.data.tables import DataError
from specs_lightning.groups import EncodedPrompt
from specs_lightning.modules import GRPOModule
from specs_lightning.policy.loading import PolicySettings
from specs_lightning.rollout import HFEngine, SamplingSettings


class Killed(BaseException):
    """As `kill -9` would have it."""


class Draws:
    """Which prompts the embedded engine is asked, batch by batch; it dies at the batch of number `dies_at`."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.dies_at: int | None = None

    def begin(self, prompts: Sequence[EncodedPrompt]) -> None:
        if len(self.batches) == self.dies_at:
            raise Killed
        self.batches.append([prompt.id for prompt in prompts])


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> Draws:
    draws, generate = Draws(), HFEngine.generate

    def listened(self: HFEngine, prompts: Sequence[EncodedPrompt], *others: Any, **more: Any) -> Any:
        draws.begin(prompts)
        return generate(self, prompts, *others, **more)

    monkeypatch.setattr(HFEngine, "generate", listened)
    return draws


@pytest.fixture
def evaluate(tiny_model_path: Path, tmp_path: Path) -> Any:
    """A test of six prompts in batches of two, twice; what it came to."""
    file = write_prompt_file(tmp_path / "data", 6)
    file.write_text(file.read_text().replace('"answer_type": "number"', '"answer_type": "text"'))  # spares math-verify

    def run(folder: str, command: str = "test", **changes: Any) -> tuple[str, str]:
        settings: dict[str, Any] = {"evaluation_sampling": SamplingSettings(2, 4), "seed": 0, **changes}
        sets = {"a": PromptSource(str(file)), "b": PromptSource(str(file), answer_format="boxed")}
        data = RolloutDataModule(sets["a"], evaluation=sets, evaluation_batch=2, **settings)
        trainer = small_trainer(tmp_path / folder)
        getattr(trainer, command)(GRPOModule(PolicySettings(str(tiny_model_path))), datamodule=data, verbose=False)
        names = (f"{command}.json", f"{command}_answers.jsonl")
        scores, answers = ((tmp_path / folder / name).read_text() for name in names)
        return scores, answers

    return run


def test_what_a_kill_left_is_not_drawn_again_and_the_end_is_the_same(
    evaluate: Any, draws: Draws, tmp_path: Path
) -> None:
    alone = evaluate("alone")
    everything, draws.batches = draws.batches, []
    draws.dies_at = 4
    with pytest.raises(Killed):
        evaluate("killed")
    (file,) = (tmp_path / "killed" / "answers").glob("*/*.jsonl")
    lines = file.read_bytes().splitlines(keepends=True)
    assert len(lines) == 4
    file.write_bytes(b"".join(lines[:-1]) + lines[-1][:100])  # killed in the middle of writing the last
    draws.batches, draws.dies_at = [], None
    assert evaluate("killed") == alone
    assert draws.batches == everything[3:]
    draws.batches = []
    assert evaluate("killed") == alone
    assert evaluate("killed", command="validate")[1] == alone[1]
    assert draws.batches == []


def test_other_settings_draw_anew_and_say_what_differs(
    evaluate: Any, draws: Draws, capsys: pytest.CaptureFixture[str]
) -> None:
    first = evaluate("run")
    capsys.readouterr()
    other = evaluate("run", seed=1, evaluation_sampling=SamplingSettings(2, 5))
    said = capsys.readouterr().out
    assert "drawn otherwise" in said and "seed: 0 -> 1" in said and "evaluation_sampling.max_tokens: 4 -> 5" in said
    assert other != first and len(draws.batches) == 12
    assert evaluate("run") == first
    assert "12 of 12 prompts were answered before; 0 are left" in capsys.readouterr().out
    assert len(draws.batches) == 12


def test_verdicts_are_those_of_todays_gold_answers(evaluate: Any, draws: Draws, tmp_path: Path) -> None:
    def found(answers: str) -> dict[str, Any]:
        return next(row for row in map(json.loads, answers.splitlines()) if row["answer"])

    before = found(evaluate("run")[1])
    file = tmp_path / "data" / "prompts.jsonl"
    file.write_text(file.read_text().replace('"answer": "2"', f'"answer": {json.dumps(before["answer"])}'))
    draws.batches = []
    after = found(evaluate("run")[1])
    assert draws.batches == []
    assert (before["correct"], after["correct"]) == (0.0, 1.0)
    assert after["text"] == before["text"]


def test_another_image_is_another_question(evaluate: Any, draws: Draws, tmp_path: Path) -> None:
    evaluate("run")
    draws.batches = []
    images = [tmp_path / "data" / f"{i}.png" for i in (0, 1)]
    first = images[0].read_bytes()
    images[0].write_bytes(images[1].read_bytes())
    assert first != images[1].read_bytes()
    evaluate("run")
    assert draws.batches == [["p0"], ["p0"]]


def test_a_set_without_a_usable_prompt_is_refused(evaluate: Any) -> None:
    with pytest.raises(DataError, match="no prompt of the set a can be used: 12 rows set aside"):
        evaluate("run", max_prompt_tokens=3)


def test_the_base_is_answered_beside_the_model_and_both_are_kept(
    tiny_model_path: Path, draws: Draws, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_prompt_file(tmp_path / "data", 4)
    command = (
        "test",
        "--config=configs/toy/evaluate.yaml",
        f"--model.policy.model={tiny_model_path}",
        f"--trainer.default_root_dir={tmp_path / 'run'}",
        f"--data.evaluation={{few: {{path: {file}}}}}",
        "--data.evaluation_sampling.max_tokens=4",
        "--base=toy:base",
    )
    specs(*command)
    run, base = (json.loads((tmp_path / folder / "test.json").read_text()) for folder in ("run", "run/base"))
    assert run["model"] == str(tiny_model_path) and base["model"].endswith("base_model")
    assert run["base"] == "toy:base" and set(run["differences"]["few"]) == {"correct", "solved", "format_kept"}
    for measure, found in run["differences"]["few"].items():
        expected = run["sets"]["few"][measure] - base["sets"]["few"][measure]
        assert found["value"] == pytest.approx(expected) and found["n"] == 4
    asked = [batch for batch in draws.batches if batch]
    assert asked == [["p0", "p1", "p2", "p3"]] * 2
    page = (tmp_path / "run" / "test.html").read_text()
    assert "toy:base" in page and str(tiny_model_path) in page and (tmp_path / "run" / "base" / "test.html").exists()
    specs(*command)
    assert len(draws.batches) == 2
    assert (tmp_path / "run" / "test.html").read_text() == page
    assert "4 of 4 prompts were answered before" in capsys.readouterr().out
