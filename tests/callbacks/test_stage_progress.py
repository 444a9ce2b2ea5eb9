"""A stage shows how far it is on the run's display, and what it measures as it goes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers.small_runs import Letters, ScriptedEngine, adam, small_trainer, write_prompt_file
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from specs_lightning.callbacks.stage_progress import StageProgress
from specs_lightning.data import EvaluationDataModule, RolloutDataModule
from specs_lightning.data.sources import PromptSource
from specs_lightning.groups import Prompt
from specs_lightning.modules import GRPOModule, ScheduleSettings
from specs_lightning.policy.loading import PolicySettings
from specs_lightning.rollout import SamplingSettings

STEPS = 3


class Bars:
    """Stands in for the display: each bar's title, total, beginning, advances and notes, and how many are open."""

    def __init__(self) -> None:
        self.made: list[tuple[str, int]] = []
        self.begun_at: list[int] = []
        self.done: list[int] = []
        self.notes: list[str] = []
        self.open = 0

    @contextmanager
    def bar(self, title: str, total: int, done: int = 0) -> Iterator[Any]:
        self.made.append((title, total))
        self.begun_at.append(done)
        self.open += 1
        yield self.advance
        self.open -= 1

    def advance(self, units: int, note: str = "") -> None:
        self.done.append(units)
        self.notes.append(note)


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> Bars:
    bars = Bars()
    monkeypatch.setattr("specs_lightning.callbacks.stage_progress.progress_bar", bars.bar)
    return bars


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> PromptSource:
    return PromptSource(str(write_prompt_file(tmp_path_factory.mktemp("prompts"))), limit=5)


def two_letters(prompt: Prompt, seed: str) -> Sequence[str]:
    return ["a", "bb"]


def trainer(folder: Path, *callbacks: Any, **settings: Any) -> Trainer:
    return small_trainer(folder, StageProgress("[2/6] zero"), *callbacks, enable_progress_bar=True, **settings)


def modules(model: Path, prompts: PromptSource) -> tuple[GRPOModule, RolloutDataModule]:
    module = GRPOModule(PolicySettings(str(model)), optimizer=adam, schedule=ScheduleSettings("constant", 0.0))
    data = RolloutDataModule(
        prompts,
        rewards=[Letters()],
        sampling=SamplingSettings(2, 6),
        engine=ScriptedEngine(two_letters),
        prompts_per_round=2,
        steps_per_round=1,
        rounds=STEPS,
    )
    return module, data


def test_a_training_shows_its_steps_with_their_loss_and_reward_and_goes_on_where_it_was(
    tiny_model_path: Path, prompts: PromptSource, bars: Bars, tmp_path: Path
) -> None:
    keeper = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=2, save_top_k=-1)
    module, data = modules(tiny_model_path, prompts)
    trainer(tmp_path, keeper, enable_checkpointing=True).fit(module, datamodule=data)
    assert bars.made == [("[2/6] zero", STEPS)] and bars.open == 0
    assert (bars.begun_at, bars.done) == ([0], [1, 1, 1])
    assert all("loss " in note and "reward 1.500" in note for note in bars.notes)
    assert all(float(note.split()[-2]) > 0 and note.endswith(" tokens/s") for note in bars.notes)
    bars.done.clear()
    module, data = modules(tiny_model_path, prompts)
    trainer(tmp_path).fit(module, datamodule=data, ckpt_path=tmp_path / "step=2.ckpt")
    assert (bars.begun_at, bars.done) == ([0, 2], [1])


def test_a_training_that_is_to_end_early_shows_the_steps_that_it_will_do(
    tiny_model_path: Path, prompts: PromptSource, bars: Bars, tmp_path: Path
) -> None:
    module, data = modules(tiny_model_path, prompts)
    trainer(tmp_path, max_steps=STEPS - 1).fit(module, datamodule=data)
    assert bars.made == [("[2/6] zero", STEPS - 1)] and bars.done == [1, 1]


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_every_kind_of_evaluation_shows_its_prompts(
    tiny_model_path: Path, prompts: PromptSource, bars: Bars, tmp_path: Path, command: str
) -> None:
    data = EvaluationDataModule({"id": prompts}, engine=ScriptedEngine(lambda prompt, seed: ["a"]), evaluation_batch=2)
    getattr(trainer(tmp_path), command)(GRPOModule(PolicySettings(str(tiny_model_path))), datamodule=data)
    assert bars.made == [("[2/6] zero", 5)] and bars.done == [2, 2, 1] and bars.open == 0


def test_an_evaluation_shows_its_prompts_less_those_that_were_answered(
    tiny_model_path: Path, prompts: PromptSource, bars: Bars, tmp_path: Path
) -> None:
    for _ in range(2):
        few = PromptSource(prompts.path, limit=3)
        engine = ScriptedEngine(lambda prompt, seed: ["a"])
        data = EvaluationDataModule({"id": prompts, "ood": few}, engine=engine, evaluation_batch=2)
        trainer(tmp_path).test(GRPOModule(PolicySettings(str(tiny_model_path))), datamodule=data, verbose=False)
    assert bars.made == [("[2/6] zero", 8)] and bars.open == 0  # no bar from 0 to 0
    assert bars.done == [2, 2, 1, 2, 1]


def test_what_never_began_has_no_bar_to_end(bars: Bars) -> None:
    StageProgress("zero").teardown(None, None, "fit")  # type: ignore[arg-type]  # looks at neither
    assert bars.made == []
