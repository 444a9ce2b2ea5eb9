"""A training that was stopped, however, ends as one that was not: weights, metrics and samples."""

from __future__ import annotations

import csv
import json
import math
import os
import random
import re
import shutil
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.full_disks import no_room_for
from helpers.other_content import (
    as_before_digests,
    other_image,
    other_image_of_a_pair,
    other_pair,
    other_row,
    other_weights,
)
from helpers.small_runs import (
    Letters,
    adam,
    small_trainer,
    trained_weights,
    write_pair_file,
    write_prompt_file,
)
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

from specs_lightning.callbacks import Checkpoints, ExportHF, SampleTable
from specs_lightning.data import PreferenceDataModule, RolloutDataModule
from specs_lightning.data.policy_data import PolicyDataModule
from specs_lightning.data.sources import PromptSource
from specs_lightning.data.tables import DataError
from specs_lightning.errors import SpecsError
from specs_lightning.groups import Completion, Prompt
from specs_lightning.modules import ColdStartModule, GRPOModule, PolicyModule
from specs_lightning.modules.checkpoint_files import CheckpointError, by_step
from specs_lightning.modules.metrics_file import MetricsFile, ResumeMetrics
from specs_lightning.policy.loading import PolicySettings
from specs_lightning.policy.policy import BrokenWeights
from specs_lightning.records.metrics import is_timing
from specs_lightning.rollout import SamplingSettings


class Noisy(Letters):
    """Draws from the global generators, as a user's reward may."""

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Tensor:
        return super().__call__(prompts, completions) + random.random() * torch.rand(len(completions))


class Stopped(Exception):
    """What a test has a training fail with."""


Kind = tuple[Callable[[Path, Path], tuple[PolicyModule, PolicyDataModule]], dict[str, Any]]


def rollouts(model: Path, data: Path) -> tuple[PolicyModule, PolicyDataModule]:
    settings: dict[str, Any] = {"rewards": [Noisy()], "sampling": SamplingSettings(3, 6)}
    settings |= {"prompts_per_round": 4, "steps_per_round": 2, "rounds": 2}
    prompts = PromptSource(str(data / "prompts.jsonl"))
    return GRPOModule(PolicySettings(str(model)), optimizer=adam), RolloutDataModule(prompts, **settings)


def pairs(model: Path, data: Path) -> tuple[PolicyModule, PolicyDataModule]:
    module = ColdStartModule(PolicySettings(str(model)), optimizer=adam)
    return module, PreferenceDataModule(str(data / "pairs.parquet"), batch_size=4)


ROLLOUTS: Kind = (rollouts, {})
EPOCHS: Kind = (pairs, {"max_epochs": 2})
MAX_STEPS: Kind = (pairs, {"max_epochs": 2, "max_steps": 3})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_prompt_file(folder)
    write_pair_file(folder)
    return folder


class Ended:
    """A training's end, and what its folder holds."""

    def __init__(self, module: PolicyModule, folder: Path) -> None:
        self.weights, self.version, self.steps = trained_weights(module), module.policy.version, module.steps
        with (folder / "metrics.csv").open(newline="") as file:
            self.metrics = [
                {name: value for name, value in row.items() if not is_timing(name)} for row in csv.DictReader(file)
            ]
        samples = folder / "samples.jsonl"
        self.samples = [json.loads(line) for line in samples.read_text().splitlines()] if samples.exists() else []

    def __eq__(self, other: object) -> bool:
        assert isinstance(other, Ended)
        assert self.metrics == other.metrics and self.samples == other.samples
        assert (self.version, self.steps) == (other.version, other.steps)
        assert torch.equal(self.weights, other.weights)
        return True


def train(
    kind: Kind, model: Path, data: Path, folder: Path, *callbacks: Callback, checkpoint: Path | None = None
) -> Any:
    make, settings = kind
    if checkpoint is None:
        seed_everything(0)
    else:
        seed_everything(random.SystemRandom().randrange(1000))
    module, datamodule = make(model, data)
    metrics = MetricsFile(folder / "metrics.csv")
    table = [SampleTable(every_n_steps=2, groups=1)] if kind is ROLLOUTS else []
    settings = {"enable_checkpointing": True, "logger": metrics, "log_every_n_steps": 1, **settings}
    trainer = small_trainer(folder, ResumeMetrics(metrics), *table, *callbacks, **settings)
    trainer.fit(module, datamodule=datamodule, ckpt_path=checkpoint)
    return Ended(module, folder)


@pytest.mark.parametrize("kind", [ROLLOUTS, EPOCHS, MAX_STEPS], ids=["rollouts", "epochs", "max_steps"])
def test_it_goes_on_exactly_from_every_checkpoint(
    tiny_model_path: Path, data: Path, tmp_path: Path, kind: Kind
) -> None:
    """As after a kill: what the folder holds beyond the checkpoint did not last."""
    keeper = Checkpoints(every_n_steps=1, keep=9)
    whole = train(kind, tiny_model_path, data, tmp_path / "whole", keeper)
    checkpoints = by_step(tmp_path / "whole" / "checkpoints")
    assert [file.name for file in checkpoints] == [f"step={n}.ckpt" for n in range(whole.steps, 0, -1)]
    assert len(whole.metrics) == whole.steps == (3 if kind is MAX_STEPS else 4)
    for checkpoint in checkpoints[1:]:
        folder = tmp_path / checkpoint.stem
        shutil.copytree(tmp_path / "whole", folder)
        assert train(kind, tiny_model_path, data, folder, Checkpoints(), checkpoint=checkpoint) == whole


class StopIn(Callback):
    """Raises, or has the process told to stop, at a point of a step."""

    def __init__(self, point: str, step: int, sent: signal.Signals | None) -> None:
        self.point, self.step, self.sent = point, step, sent

    def _stop(self, point: str, steps: int) -> None:
        if (point, steps) == (self.point, self.step):
            if self.sent:
                os.kill(os.getpid(), self.sent)
            else:
                raise Stopped

    def on_train_start(self, trainer: Trainer, pl_module: PolicyModule) -> None:  # type: ignore[override]
        def before(name: str, original: Any) -> Any:
            def wrapped(*args: Any, **kwargs: Any) -> Any:
                self._stop(name, pl_module.steps)
                return original(*args, **kwargs)

            return wrapped

        if isinstance(pl_module.data, RolloutDataModule):
            engine = pl_module.data.engine
            engine.generate = before("drawing", engine.generate)  # type: ignore[method-assign]
        pl_module.loss = before("loss", pl_module.loss)  # type: ignore[method-assign]
        (optimizer,) = trainer.optimizers
        optimizer.register_step_post_hook(lambda *unused: self._stop("updating", pl_module.steps))

    def on_train_batch_end(self, trainer: Trainer, pl_module: PolicyModule, *unused: Any) -> None:  # type: ignore[override]
        self._stop("batch_end", pl_module.steps)


@pytest.mark.parametrize("sent", [None, signal.SIGTERM], ids=["failure", "SIGTERM"])
@pytest.mark.parametrize(
    ("kind", "point", "step", "saved", "saved_at_sigterm"),
    [
        (ROLLOUTS, "drawing", 0, None, None),  # nothing is there yet
        (ROLLOUTS, "loss", 0, 0, 0),  # with the round's completions
        (ROLLOUTS, "drawing", 2, 2, 2),
        (ROLLOUTS, "loss", 3, 3, 3),  # the last batch of all
        (ROLLOUTS, "updating", 2, None, 3),  # not half an update
        (EPOCHS, "loss", 2, 2, 2),  # the first of another epoch
        (EPOCHS, "batch_end", 2, None, 2),  # callbacks are not done
        (MAX_STEPS, "loss", 2, 2, 2),
        (MAX_STEPS, "updating", 2, None, 3),  # the last update: the training ends first
    ],
)
def test_when_it_is_stopped_its_last_complete_step_is_saved(
    tiny_model_path: Path,
    data: Path,
    tmp_path: Path,
    wholes: dict[int, Ended],
    kind: Kind,
    point: str,
    step: int,
    saved: int | None,
    saved_at_sigterm: int | None,
    sent: signal.Signals | None,
) -> None:
    expected = saved_at_sigterm if sent else saved
    stop = StopIn(point, step, sent)
    with pytest.raises(SIGTERMException if sent else Stopped):
        train(kind, tiny_model_path, data, tmp_path, Checkpoints(every_n_steps=100), stop)
    found = by_step(tmp_path / "checkpoints")
    assert [file.name for file in found] == ([] if expected is None else [f"step={expected}.ckpt"])
    if found and (kind, expected) != (MAX_STEPS, 3):
        resumed = train(kind, tiny_model_path, data, tmp_path, Checkpoints(), checkpoint=found[0])
        assert resumed == wholes[id(kind)]


@pytest.mark.parametrize("sent", [signal.SIGUSR1, signal.SIGHUP])
def test_other_signals_stop_it_like_sigterm(
    tiny_model_path: Path, data: Path, tmp_path: Path, sent: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[int] = []
    monkeypatch.setattr("specs_lightning.callbacks.checkpoints.leave_terminal", left.append)  # this one is needed
    before = signal.getsignal(sent)
    with pytest.raises(SIGTERMException):
        train(EPOCHS, tiny_model_path, data, tmp_path, Checkpoints(), StopIn("loss", 1, sent))
    assert [file.name for file in by_step(tmp_path / "checkpoints")] == ["step=1.ckpt"]
    assert left == [sent] and signal.getsignal(sent) == before


@pytest.fixture(scope="module")
def wholes(tiny_model_path: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Ended]:
    """Each kind of training without a stop."""
    folder = tmp_path_factory.mktemp("wholes")
    return {
        id(kind): train(kind, tiny_model_path, data, folder / str(id(kind)), Checkpoints())
        for kind in (ROLLOUTS, EPOCHS, MAX_STEPS)
    }


def test_a_training_that_is_complete_is_left_as_it_is(tiny_model_path: Path, data: Path, tmp_path: Path) -> None:
    whole = train(MAX_STEPS, tiny_model_path, data, tmp_path, Checkpoints())
    (last,) = by_step(tmp_path / "checkpoints")
    before = last.stat().st_mtime_ns
    make, settings = MAX_STEPS
    module, datamodule = make(tiny_model_path, data)
    trainer = small_trainer(tmp_path, Checkpoints(), enable_checkpointing=True, **settings)
    trainer.fit(module, datamodule=datamodule, ckpt_path=last)
    assert torch.equal(trained_weights(module), whole.weights)
    assert last.stat().st_mtime_ns == before


def test_so_many_are_kept(tiny_model_path: Path, data: Path, tmp_path: Path) -> None:
    train(ROLLOUTS, tiny_model_path, data, tmp_path, Checkpoints(every_n_steps=1, keep=2))
    assert sorted(file.name for file in (tmp_path / "checkpoints").iterdir()) == ["step=3.ckpt", "step=4.ckpt"]


def test_a_training_under_a_clock_that_was_set_back_ends_with_its_own_last_steps(
    tiny_model_path: Path, data: Path, tmp_path: Path
) -> None:
    """What is there is of the future, by its time and by its steps."""
    old = tmp_path / "checkpoints" / "step=90.ckpt"
    old.parent.mkdir()
    old.write_bytes(b"of another training")
    os.utime(old, ns=(2**62, 2**62))
    train(ROLLOUTS, tiny_model_path, data, tmp_path, Checkpoints(every_n_steps=1, keep=2))
    assert [file.name for file in by_step(old.parent)] == ["step=4.ckpt", "step=3.ckpt"]
    assert (tmp_path / "checkpoints.1" / old.name).read_bytes() == b"of another training"


def test_a_full_disk_ends_it_with_the_checkpoint_before_intact(
    tiny_model_path: Path, data: Path, tmp_path: Path, wholes: dict[int, Ended]
) -> None:
    """And with room again it goes on."""
    with (
        no_room_for("step=3.ckpt"),
        pytest.raises(CheckpointError, match=r"step=3\.ckpt .* the disk is full\. step=2\.ckpt is whole"),
    ):
        train(ROLLOUTS, tiny_model_path, data, tmp_path, Checkpoints(every_n_steps=1))
    newest, _ = by_step(tmp_path / "checkpoints")
    assert newest.name == "step=2.ckpt"
    resumed = train(ROLLOUTS, tiny_model_path, data, tmp_path, Checkpoints(), checkpoint=newest)
    assert resumed == wholes[id(ROLLOUTS)]


class Breaks(Callback):
    """Has a weight be no number after a step."""

    def __init__(self, step: int, value: float) -> None:
        self.step, self.value = step, value

    def on_train_batch_end(self, trainer: Trainer, pl_module: PolicyModule, *unused: Any) -> None:  # type: ignore[override]
        if pl_module.steps == self.step:
            next(pl_module.policy.parameters()).data.flatten()[0] = self.value


@pytest.mark.parametrize(("value", "every"), [(math.nan, 1), (-math.inf, 1), (math.nan, 2), (math.nan, 100)])
def test_a_model_with_broken_weights_is_not_saved_and_the_last_good_checkpoint_stays(
    tiny_model_path: Path, data: Path, tmp_path: Path, value: float, every: int
) -> None:
    """Whether it is found out at a checkpoint, or at the end of the training, of which no model is exported."""
    callbacks = Checkpoints(every_n_steps=every, keep=1), Breaks(2, value), ExportHF()
    with pytest.raises(
        BrokenWeights, match=r"1 of the model's weights are not finite, model\..*Lower the learning rate"
    ):
        train(EPOCHS, tiny_model_path, data, tmp_path, *callbacks)
    assert [file.name for file in tmp_path.glob("checkpoints/*")] == (["step=1.ckpt"] if every == 1 else [])
    assert not (tmp_path / "model").exists()


def test_a_training_from_broken_weights_does_not_end_well_however_short(
    tiny_model_path: Path, data: Path, tmp_path: Path
) -> None:
    """All of its steps are left out, and there are fewer than would end it."""

    class FromBroken(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: PolicyModule) -> None:  # type: ignore[override]
            next(pl_module.policy.parameters()).data.fill_(math.nan)

    with pytest.raises(BrokenWeights):
        train(EPOCHS, tiny_model_path, data, tmp_path, Checkpoints(every_n_steps=100), FromBroken())
    assert by_step(tmp_path / "checkpoints") == []


@pytest.mark.parametrize("kind", [ROLLOUTS, MAX_STEPS], ids=["prompts", "pairs"])
def test_with_other_data_it_does_not_go_on(tiny_model_path: Path, data: Path, tmp_path: Path, kind: Kind) -> None:
    train(kind, tiny_model_path, data, tmp_path, Checkpoints(every_n_steps=1))
    *_, first = by_step(tmp_path / "checkpoints")
    other = tmp_path / "other"
    write_prompt_file(other, size=6)
    write_pair_file(other, size=6)
    with pytest.raises(DataError, match=r"has other (prompts|pairs) than when the checkpoint was saved"):
        train(kind, tiny_model_path, other, tmp_path, Checkpoints(), checkpoint=first)


@dataclass(frozen=True)
class Saved:
    """A training's checkpoint after its first step, and what it began with."""

    model: Path
    data: Path
    checkpoint: Path


AfterAStep = Callable[[Kind], Saved]


@pytest.fixture(scope="module")
def after_a_step(tiny_model_path: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> AfterAStep:
    @cache
    def make(name: str) -> Saved:
        folder = tmp_path_factory.mktemp("saved")
        kind = {"rollouts": ROLLOUTS, "pairs": MAX_STEPS}[name]
        train(kind, tiny_model_path, data, folder, Checkpoints(every_n_steps=1, keep=9))
        return Saved(tiny_model_path, data, folder / "checkpoints" / "step=1.ckpt")

    return lambda kind: make("rollouts" if kind is ROLLOUTS else "pairs")


class TestOtherContent:
    """Under the same ids, paths and settings."""

    @pytest.mark.parametrize(
        ("kind", "change"),
        [
            (MAX_STEPS, other_pair(chosen="<think>so</think><answer>9</answer>")),
            (MAX_STEPS, other_pair(rejected="Answer: 9")),
            (MAX_STEPS, other_image_of_a_pair),
            (ROLLOUTS, other_row(question="How many?")),
            (ROLLOUTS, other_row(answer="3")),
            (ROLLOUTS, other_row(task="counting")),  # rewards may know it
            (ROLLOUTS, other_image),
        ],
        ids=["chosen", "rejected", "pair's image", "question", "gold answer", "further column", "image"],
    )
    def test_of_data_is_refused(
        self,
        after_a_step: AfterAStep,
        tmp_path: Path,
        kind: Kind,
        change: Callable[[Path], None],
    ) -> None:
        saved = after_a_step(kind)
        other = Path(shutil.copytree(saved.data, tmp_path / "other"))
        change(other)
        with pytest.raises(DataError, match=r"has other (prompts|pairs) than when the checkpoint was saved"):
            train(kind, saved.model, other, tmp_path, Checkpoints(), checkpoint=saved.checkpoint)

    @pytest.mark.parametrize("kind", [ROLLOUTS, MAX_STEPS], ids=["prompts", "pairs"])
    def test_of_the_model_is_refused(self, after_a_step: AfterAStep, tmp_path: Path, kind: Kind) -> None:
        saved = after_a_step(kind)
        model = Path(shutil.copytree(saved.model, tmp_path / "model"))
        other_weights(model)
        with pytest.raises(SpecsError, match=r"the policy's model .*model is another than the one that the checkpoint"):
            train(kind, model, saved.data, tmp_path, Checkpoints(), checkpoint=saved.checkpoint)

    @pytest.mark.parametrize("kind", [ROLLOUTS, MAX_STEPS], ids=["prompts", "pairs"])
    def test_the_same_at_other_places_is_gone_on_with(
        self, after_a_step: AfterAStep, tmp_path: Path, kind: Kind, wholes: dict[int, Ended]
    ) -> None:
        """Everything is moved: model, data and the training's own folder."""
        saved = after_a_step(kind)
        places = (saved.model, saved.data, saved.checkpoint.parents[1])
        model, data, folder = (Path(shutil.copytree(place, tmp_path / "moved" / place.name)) for place in places)
        checkpoint = folder / "checkpoints" / "step=1.ckpt"
        assert train(kind, model, data, folder, Checkpoints(), checkpoint=checkpoint) == wholes[id(kind)]

    @pytest.mark.parametrize("kind", [ROLLOUTS, MAX_STEPS], ids=["prompts", "pairs"])
    def test_a_checkpoint_without_digests_is_gone_on_with_and_a_warning_says_what_was_not_checked(
        self,
        after_a_step: AfterAStep,
        tmp_path: Path,
        kind: Kind,
        wholes: dict[int, Ended],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        saved = after_a_step(kind)
        folder = Path(shutil.copytree(saved.checkpoint.parents[1], tmp_path / "before"))
        checkpoint = folder / "checkpoints" / "step=1.ckpt"
        as_before_digests(checkpoint, "pairs" if kind is MAX_STEPS else "prompts")
        assert train(kind, saved.model, saved.data, folder, Checkpoints(), checkpoint=checkpoint) == wholes[id(kind)]
        assert "it could not be checked that the policy's model" in caplog.text
        assert re.search(r"could not be checked that the (pairs|prompts) of \S+ have the texts and images", caplog.text)


@pytest.mark.parametrize("wrong", [{"every_n_steps": 0}, {"keep": 0}])
def test_settings_out_of_range(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        Checkpoints(**wrong)
