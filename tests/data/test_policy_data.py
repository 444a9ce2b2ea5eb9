"""What all data modules share: settings that are handed on, and what they may ask of the module that trains on them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.small_runs import write_prompt_file

from specs_lightning.data import EvaluationDataModule, PreferenceDataModule, PromptSource, RolloutDataModule
from specs_lightning.data.policy_data import Learner, PolicyDataModule, check_rows, rows_digest, shuffled
from specs_lightning.errors import DataError
from specs_lightning.groups import Completion
from specs_lightning.modules import ColdStartModule, GRPOModule
from specs_lightning.objectives import DPO, GRPO, SFT, MismatchCorrection
from specs_lightning.policy.loading import LoRASettings, PolicySettings
from specs_lightning.policy.policy import Policy
from specs_lightning.rollout import RolloutEngine, SamplingSettings

SOURCE = PromptSource("prompts.jsonl")


def made(**settings: Any) -> list[PolicyDataModule]:
    return [
        RolloutDataModule(SOURCE, **settings),
        PreferenceDataModule("pairs.parquet", **settings),
        EvaluationDataModule({"id": SOURCE}, **settings),
    ]


def test_shared_settings_reach_every_data_module() -> None:
    assert [(data.seed, data.max_prompt_tokens) for data in made(seed=3, max_prompt_tokens=9)] == [(3, 9)] * 3


def test_a_setting_that_none_has_is_refused() -> None:
    for kind in (RolloutDataModule, PreferenceDataModule):
        with pytest.raises(TypeError, match="sede"):
            kind(SOURCE, sede=3)  # type: ignore[arg-type]


def test_evaluation_sets_alone_have_nothing_to_train_on() -> None:
    with pytest.raises(DataError, match="EvaluationDataModule has nothing to train on"):
        _ = EvaluationDataModule({"id": SOURCE}).steps_per_epoch


@pytest.mark.parametrize(("objective", "sides"), [(DPO(), 2), (SFT(), 1)])
def test_a_module_says_which_sides_of_a_pair_it_takes(objective: Any, sides: int) -> None:
    module: Learner = ColdStartModule(PolicySettings("toy:base"), objective)
    assert module.completions_per_pair == sides


@pytest.mark.parametrize("kind", ["none", "truncated"])
def test_a_module_says_whether_it_needs_old_log_probabilities(kind: Any) -> None:
    module: Learner = GRPOModule(PolicySettings("toy:base"), GRPO(mismatch=MismatchCorrection(kind)))
    assert module.needs_old_logprobs == (kind != "none")


def test_each_epoch_is_another_permutation_of_the_same_seed() -> None:
    first, second = shuffled(20, seed=1, epoch=0), shuffled(20, seed=1, epoch=1)
    assert sorted(first) == sorted(second) == list(range(20)) and first != second
    assert first == shuffled(20, seed=1, epoch=0) != shuffled(20, seed=2, epoch=0)


class TestSameRows:
    ROWS = ("first", "second")

    def test_a_digest_tells_lists_by_content_and_order(self) -> None:
        digests = [rows_digest(rows, str) for rows in (self.ROWS, list(self.ROWS), self.ROWS[::-1], ("first", "other"))]
        assert digests[0] == digests[1] and len(set(digests)) == 3

    def test_others_are_refused(self) -> None:
        state = {"content": rows_digest(self.ROWS, str)}
        check_rows(state, "pairs", rows_digest(self.ROWS, str), self.ROWS, "pairs.parquet")
        with pytest.raises(DataError, match="has other pairs than when the checkpoint was saved"):
            check_rows(state, "pairs", rows_digest(self.ROWS[:1], str), self.ROWS, "pairs.parquet")

    def test_a_checkpoint_that_knows_ids_alone_is_taken_with_a_warning(self, caplog: pytest.LogCaptureFixture) -> None:
        state = {"prompts": "7e18f737311b2dc3"}  # of the ids a and b, by the first versions of the package
        check_rows(state, "prompts", "of their content", ["a", "b"], "prompts.jsonl")
        assert "it could not be checked that the prompts of prompts.jsonl have the texts and images" in caplog.text
        with pytest.raises(DataError, match="has other prompts"):
            check_rows(state, "prompts", "of their content", ["a", "c"], "prompts.jsonl")


class Idle(RolloutEngine):
    """Draws nothing, and notes whether it was closed."""

    closed = False

    def sync(self, policy: Policy) -> None:
        """Nothing to take over."""

    def generate(self, *unused: Any) -> list[list[Completion]]:
        return []

    def close(self) -> None:
        self.closed = True


def attached(data: PolicyDataModule, folder: Path, command: str = "test", **policy: Any) -> PolicyDataModule:
    """As a trainer would have it, with a policy of which only the settings are there."""
    settings = PolicySettings(str(folder / "model"), **policy)
    model = SimpleNamespace(config=SimpleNamespace(_commit_hash=None))
    module = SimpleNamespace(policy=SimpleNamespace(settings=settings, source=settings.model, model=model))
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        default_root_dir=str(folder),
        is_global_zero=True,
        state=SimpleNamespace(fn=command),
        lightning_module=module,
        ckpt_path=None,
        precision="32-true",
    )
    return data


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_evaluation_without_sets_is_refused_and_says_what_to_give(command: str) -> None:
    with pytest.raises(DataError, match=f"{command} needs evaluation sets: give data.evaluation"):
        RolloutDataModule(SOURCE).setup(command)


def test_sets_are_loaded_for_an_evaluation_and_their_bad_rows_set_aside(tmp_path: Path) -> None:
    file = write_prompt_file(tmp_path, 3)
    file.write_text(file.read_text() + '{"id": "bad"}\n')
    data = EvaluationDataModule({"a": PromptSource(str(file)), "b": PromptSource(str(file), limit=1)})
    data.setup("test")
    assert {name: [p.id for p in of] for name, of in data.evaluation_prompts.items()} == {
        "a": ["p0", "p1", "p2"],
        "b": ["p0"],
    }
    assert [row.row for row in data.set_aside.rows] == [4]


def test_validation_while_training_is_left_to_the_callbacks(tmp_path: Path) -> None:
    data = attached(RolloutDataModule(SOURCE, evaluation={"id": SOURCE}), tmp_path, "fit")
    assert data.val_dataloader() == []


def test_at_the_end_the_engine_is_closed_and_rows_that_were_set_aside_are_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = Idle()
    data = attached(RolloutDataModule(SOURCE, engine=engine), tmp_path)
    data.set_aside.add("a.jsonl", 3, "missing question")
    data.teardown("fit")
    assert engine.closed
    assert "1 x missing question (a.jsonl)" in capsys.readouterr().out
    (row,) = [json.loads(line) for line in (tmp_path / "set_aside.jsonl").read_text().splitlines()]
    assert (row["source"], row["row"], row["reason"]) == ("a.jsonl", 3, "missing question")


CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "seed": ({"seed": 1}, {}),
    "sampling": ({"evaluation_sampling": SamplingSettings(2)}, {}),
    "what is measured": ({"evaluation_with_choice": True}, {}),
    "engine": ({"engine": Idle()}, {}),
    "type": ({}, {"dtype": "bfloat16"}),
    "adapters": ({}, {"lora": LoRASettings()}),
    "what the template is told": ({}, {"chat_template_kwargs": {"enable_thinking": False}}),
    "truncation": ({"evaluation_sampling": SamplingSettings(1, top_p=0.9)}, {}),
    "stop texts": ({"evaluation_sampling": SamplingSettings(1, stop=["."])}, {}),
}
"""Settings of the data and of the policy by which the same model answers otherwise."""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"\0" * 100)
    return tmp_path


@pytest.mark.parametrize(("data", "policy"), CHANGES.values(), ids=CHANGES.keys())
def test_answers_are_kept_under_all_that_they_depend_on(
    model: Path, data: dict[str, Any], policy: dict[str, Any]
) -> None:
    before = attached(EvaluationDataModule({"id": SOURCE}), model)._cache_key()
    assert before != attached(EvaluationDataModule({"id": SOURCE}, **data), model, **policy)._cache_key()


def test_neither_where_a_model_lies_nor_how_it_is_trained_counts_but_its_weights_do(model: Path) -> None:
    def key(folder: Path, **policy: Any) -> dict[str, Any]:
        return attached(EvaluationDataModule({"id": SOURCE}, evaluation_batch=3), folder, **policy)._cache_key()

    before = key(model)
    (model / "elsewhere").mkdir()
    (model / "model").rename(model / "elsewhere" / "model")
    assert key(model / "elsewhere", gradient_checkpointing=True) == before
    (model / "elsewhere" / "model" / "model.safetensors").write_bytes(b"\1" * 100)
    assert key(model / "elsewhere") != before
