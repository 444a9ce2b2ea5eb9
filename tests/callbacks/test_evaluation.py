"""What a callback measures is logged everywhere and can end or select; training does not notice, nor do ranks."""

from __future__ import annotations

import csv
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from helpers.evaluation_ranks import measure
from helpers.small_runs import Letters, ScriptedEngine, adam, small_trainer, write_prompt_file
from helpers.two_processes import on_two_processes
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from specs_lightning.callbacks import EvaluationCallback, GeneralizationFactorCallback, Measured
from specs_lightning.data import RolloutDataModule
from specs_lightning.data.sources import PromptSource
from specs_lightning.errors import SettingsError
from specs_lightning.evaluation.evaluator import Answered
from specs_lightning.groups import EncodedPrompt, Prompt
from specs_lightning.metrics import PassAtK
from specs_lightning.modules import GRPOModule, ScheduleSettings
from specs_lightning.policy.loading import PolicySettings
from specs_lightning.rollout import SamplingSettings
from specs_lightning.system.progress import TITLE


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> PromptSource:
    return PromptSource(str(write_prompt_file(tmp_path_factory.mktemp("prompts"))), limit=4)


def fit(model: Path, prompts: PromptSource, folder: Path, *callbacks: Callback, steps: int = 4, **trainer: Any) -> None:
    module = GRPOModule(PolicySettings(str(model)), optimizer=adam, schedule=ScheduleSettings("constant", 0.0))
    data = RolloutDataModule(
        prompts,
        rewards=[Letters()],
        sampling=SamplingSettings(3, 6),
        prompts_per_round=2,
        steps_per_round=1,
        rounds=steps,
    )
    small_trainer(folder, *callbacks, **trainer).fit(module, datamodule=data)


class Lengths(EvaluationCallback):
    """One of everything that `measure` may give."""

    def __init__(self, prompts: PromptSource, **settings: Any) -> None:
        super().__init__("lengths", {"all": prompts}, sampling=SamplingSettings(1, 8), **settings)

    def prepare(self, prompts: dict[str, list[Prompt]]) -> dict[str, list[Prompt]]:
        return {**prompts, "first": prompts["all"][:1]}

    def measure(self, answered: dict[str, list[Answered]]) -> Mapping[str, Measured]:
        pass_at_k = PassAtK((1, 2))
        pass_at_k.update(torch.tensor([[1.0, 0.0]]))
        lengths = {name: [len(one.answer.text) for one in answers] for name, answers in answered.items()}
        asked = {one.prompt.id for answers in answered.values() for one in answers}
        return {**lengths, "some": [1.0, math.nan, 0.0], "x/pass": pass_at_k, "prompts": float(len(asked))}


def test_values_metrics_and_numbers_are_logged_to_every_logger(
    tiny_model_path: Path,
    prompts: PromptSource,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(TITLE, "[2/7] zero")  # as in a run
    callback = Lengths(prompts, engine=ScriptedEngine(lambda prompt, seed: ["a" * int(prompt.id[1:])]))
    loggers = [CSVLogger(tmp_path, name=name) for name in ("one", "other")]
    fit(tiny_model_path, prompts, tmp_path, callback, steps=1, logger=loggers)
    for name in ("one", "other"):
        with (tmp_path / name / "version_0" / "metrics.csv").open() as file:
            row = next(row for row in csv.DictReader(file) if row.get("lengths/all"))
        found = {name: float(value) for name, value in row.items() if name.startswith("lengths/") and value}
        expected = {"all": 1.5, "first": 0.0, "some": 0.5, "x/pass_at_1": 0.5, "x/pass_at_2": 1.0, "prompts": 4.0}
        assert found == {f"lengths/{name}": value for name, value in expected.items()}
    assert "[2/7] zero: step 0: lengths: all 1.500, first 0.000, some 0.500" in capsys.readouterr().out


class Disturbing(ScriptedEngine):
    """Draws from every global generator, as an engine may."""

    def generate(self, prompts: Sequence[EncodedPrompt], sampling: SamplingSettings, seed: str) -> Any:
        random.seed(9)
        numpy.random.seed(9)
        torch.manual_seed(9)
        return super().generate(prompts, sampling, seed)


class Luck(Callback):
    """What the global generators would give next, at each step."""

    def __init__(self) -> None:
        self.draws: list[tuple[float, float, float]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *unused: Any) -> None:
        self.draws.append((torch.rand(1).item(), random.random(), numpy.random.rand()))


def test_the_global_random_state_is_left_as_it_was(
    tiny_model_path: Path, prompts: PromptSource, tmp_path: Path
) -> None:
    draws = []
    for callbacks in ([], [Lengths(prompts, every_n_steps=1, engine=Disturbing(lambda prompt, seed: ["a"]))]):
        torch.manual_seed(0)
        random.seed(0)
        numpy.random.seed(0)
        luck = Luck()
        fit(tiny_model_path, prompts, tmp_path, *callbacks, luck, steps=3)
        draws.append(luck.draws)
    assert draws[0] == draws[1] and len(draws[0]) == 3


class RisesAndFalls(ScriptedEngine):
    """Solves everything after two steps, and less before and after that."""

    def __init__(self) -> None:
        super().__init__(self._say)

    def _say(self, prompt: Prompt, seed: str) -> Sequence[str]:
        solved = (0, 2, 4, 3, 1, 1)[self.policy.version]
        return ["<think>so</think><answer>2</answer>" if int(prompt.id[1:]) < solved else "no"]


def generalization(prompts: PromptSource, **settings: Any) -> GeneralizationFactorCallback:
    return GeneralizationFactorCallback(
        prompts, {"ood": prompts}, every_n_steps=1, sampling=SamplingSettings(1, 8), engine=RisesAndFalls(), **settings
    )


class TestLightningsOwnCallbacks:
    def test_they_keep_the_best_checkpoint_and_stop_early(
        self, tiny_model_path: Path, prompts: PromptSource, tmp_path: Path
    ) -> None:
        keeper = ModelCheckpoint(
            tmp_path, "{step}", "gf/generalization_factor", mode="max", save_on_train_epoch_end=False
        )
        stopper = EarlyStopping("gf/generalization_factor", patience=2, mode="max", check_on_train_epoch_end=False)
        module_steps = Luck()
        fit(
            tiny_model_path,
            prompts,
            tmp_path,
            module_steps,
            generalization(prompts),
            stopper,
            keeper,
            steps=6,
            enable_checkpointing=True,
        )
        assert Path(keeper.best_model_path).name == "step=2.ckpt"
        assert keeper.best_model_score == 1.0
        assert [p.name for p in tmp_path.glob("*.ckpt")] == ["step=2.ckpt"]
        assert len(module_steps.draws) == 4  # two steps after the best

    @pytest.mark.parametrize(
        ("monitor", "remedy"),
        [
            (EarlyStopping("gf/gain_id"), "give EarlyStopping check_on_train_epoch_end: false"),
            (ModelCheckpoint(monitor="gf/gain_id"), "give ModelCheckpoint save_on_train_epoch_end: false"),
            (ModelCheckpoint(monitor="gf/gain_id", every_n_train_steps=3), "neither every_n_train_steps nor"),
            (
                ModelCheckpoint(monitor="gf/gain", save_on_train_epoch_end=False),
                r"monitors gf/gain, which .* does not measure; it measures gf/gain_id, gf/gain_ood,",
            ),
        ],
        ids=["stops late", "saves late", "saves something old", "no such figure"],
    )
    def test_settings_under_which_they_would_look_at_nothing_new_are_refused(
        self, tiny_model_path: Path, prompts: PromptSource, tmp_path: Path, monitor: Callback, remedy: str
    ) -> None:
        with pytest.raises(SettingsError, match=remedy):
            fit(tiny_model_path, prompts, tmp_path, generalization(prompts), monitor, enable_checkpointing=True)


@pytest.mark.parametrize("settings", [{"every_n_steps": -1}, {"batch_size": 0}])
def test_settings_out_of_range_are_refused(prompts: PromptSource, settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="too small"):
        Lengths(prompts, **settings)


@pytest.mark.slow
def test_two_processes_find_what_one_does(tiny_model_path: Path, tmp_path: Path) -> None:
    """Sets that do not divide, one of a single prompt; batches, intervals and exploration included."""
    file = write_prompt_file(tmp_path)
    pair = on_two_processes(measure, tmp_path, tiny_model_path, file, tmp_path, 2)
    alone = measure(tiny_model_path, file, tmp_path)
    assert 0 < alone["gf/gain_ood"] < alone["gf/gain_id"] < 1 and 0 < alone["gf/id/stuck_rate"] < 1
    for together in pair:
        assert together == pytest.approx(alone, rel=1e-5)
