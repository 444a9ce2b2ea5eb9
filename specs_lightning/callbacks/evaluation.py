"""The base of callbacks that evaluate a policy while it trains; how to write one: docs/custom_evaluation.md."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.utilities.seed import isolate_rng
from torchmetrics import Metric

from specs_lightning.data.sources import PromptSource, load_prompts
from specs_lightning.errors import SettingsError
from specs_lightning.evaluation.answer_metrics import mean_of
from specs_lightning.evaluation.evaluator import Answered, Evaluator
from specs_lightning.evaluation.sets import PROMPTS_AT_ONCE, EvaluationSets
from specs_lightning.groups import EncodedPrompt, Prompt
from specs_lightning.modules import PolicyModule
from specs_lightning.rollout import RolloutEngine, SamplingSettings
from specs_lightning.system.progress import TITLE
from specs_lightning.system.terminal import say

Measured = Metric | Sequence[float] | float
"""A metric that holds this rank's share; this rank's values, of which the mean over all ranks is taken; or a number
that every rank has found alike."""


class EvaluationCallback(Callback, ABC):
    """Asks a policy questions before the first step, every n steps and at the end, and logs what `measure` makes of
    the answers, to every logger.

    Training does not notice: sampling is seeded by prompt, and the global random state is left as it was. What is
    measured can drive Lightning's `EarlyStopping` and `ModelCheckpoint` by its logged name; both are asked after each
    measurement, as after a validation.

    Args:
        name: what figures are logged below: `NAME/…`.
        sets: the questions, by the name of their set.
        every_n_steps: how often to measure; 0 for the start and the end alone.
        sampling: how answers are drawn.
        engine: what draws them; the data module's if not given.
        batch_size: prompts answered at once.
        with_choice: also measure the entropy and the branching factor of each answer.
    """

    def __init__(
        self,
        name: str,
        sets: Mapping[str, PromptSource],
        every_n_steps: int = 50,
        sampling: SamplingSettings = SamplingSettings(completions_per_prompt=1),  # noqa: B008  frozen
        engine: RolloutEngine | None = None,
        batch_size: int = PROMPTS_AT_ONCE,
        with_choice: bool = False,
    ) -> None:
        if every_n_steps < 0 or batch_size < 1:
            raise ValueError(f"every_n_steps ({every_n_steps}) or batch_size ({batch_size}) is too small")
        self.name, self.sets = name, dict(sets)
        self.every_n_steps = every_n_steps
        self.sampling, self.engine, self.batch_size, self.with_choice = sampling, engine, batch_size, with_choice
        self.measured_at = -1
        """The step of the latest measurement; while measuring, the current one."""
        self._asked: EvaluationSets | None = None
        """Made when training starts."""
        self._shared_on: torch.device | None = None
        """Where several ranks exchange what they have."""

    # What a subclass says:
    @abstractmethod
    def measure(self, answered: dict[str, list[Answered]]) -> Mapping[str, Measured]:
        """What is logged, by its name.

        Give values for their mean, or torchmetrics: with several ranks each holds a share of the answers, and the base
        puts the shares together. Every rank must give the same names in the same order, whatever its share. A metric
        of several values gives a figure for each, its key in place of the last part of the name.

        Args:
            answered: of each set, this rank's share of the answers; those to one prompt next to each other.
        """

    def prepare(self, prompts: dict[str, list[Prompt]]) -> dict[str, list[Prompt]]:
        """The prompts that are asked, by set, given those that were loaded."""
        return prompts

    def begin(self, trainer: Trainer, pl_module: PolicyModule) -> None:
        """Called when the prompts are there (`self.prompts`, those of all ranks), before any is asked."""
        return None

    def summary(self, figures: Mapping[str, float]) -> str:
        """The line printed after a measurement."""
        return ", ".join(f"{name} {value:.3f}" for name, value in figures.items())

    def over_ranks(self, values: Metric | Sequence[float]) -> Any:
        """What a metric gives over all ranks, or the mean of all ranks' values. Every rank must ask."""
        metric = values if isinstance(values, Metric) else mean_of(values)
        if self._shared_on is not None:
            metric.to(self._shared_on)
        return metric.compute()

    @property
    def prompts(self) -> dict[str, list[EncodedPrompt]]:
        """What is asked, by set, of all ranks; nothing before training starts."""
        return {} if self._asked is None else self._asked.encoded

    @property
    def state_key(self) -> str:
        return self._generate_state_key(name=self.name)

    def on_fit_start(self, trainer: Trainer, pl_module: PolicyModule) -> None:  # type: ignore[override]
        self._check_monitors(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: PolicyModule) -> None:  # type: ignore[override]
        data = pl_module.data
        prompts = self.prepare({name: load_prompts(source, data.set_aside) for name, source in self.sets.items()})
        engine = self.engine or data.engine
        evaluator = Evaluator(engine, self.sampling, with_choice=self.with_choice, judge=data.judge)
        encoder = pl_module.policy.encoder(data.max_prompt_tokens)
        self._asked = EvaluationSets(prompts, evaluator, encoder, data.set_aside, self.batch_size)
        self._shared_on = pl_module.device if trainer.world_size > 1 else None
        self.begin(trainer, pl_module)
        if trainer.global_step == 0:
            self._measure(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: PolicyModule, *unused: Any) -> None:  # type: ignore[override]
        if self.every_n_steps and trainer.global_step % self.every_n_steps == 0:
            self._measure(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: PolicyModule) -> None:  # type: ignore[override]
        self._measure(trainer, pl_module)

    def teardown(self, trainer: Trainer, pl_module: PolicyModule, stage: str) -> None:  # type: ignore[override]
        if self._asked is not None:  # training may not have started
            self._asked.close()
        if self.engine is not None:
            self.engine.close()

    def state_dict(self) -> dict[str, Any]:
        return {"measured_at": self.measured_at}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.measured_at = state_dict["measured_at"]

    def _measure(self, trainer: Trainer, pl_module: PolicyModule) -> None:
        if self.measured_at == trainer.global_step:  # the last step may also be an n-th
            return
        self.measured_at = trainer.global_step
        with isolate_rng(), torch.no_grad(), pl_module.precision():
            assert self._asked is not None  # training has started
            figures = self._figures(self.measure(self._asked.ask_all(pl_module.policy)))
        logged = {f"{self.name}/{name}": value for name, value in figures.items()}
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in logged.items()})
        for logger in trainer.loggers:
            logger.log_metrics(logged, step=trainer.global_step)
        if trainer.is_global_zero:
            stage = f"{os.environ[TITLE]}: " if TITLE in os.environ else ""
            say(f"{stage}step {trainer.global_step}: {self.name}: {self.summary(figures)}")
        self._ask_monitors(trainer, pl_module, logged)

    def _figures(self, measured: Mapping[str, Measured]) -> dict[str, float]:
        """What was measured over all ranks."""
        figures: dict[str, float] = {}
        for name, values in measured.items():
            found = values if isinstance(values, float) else self.over_ranks(values)
            if isinstance(found, Mapping):
                folder = name[: name.rfind("/") + 1]
                figures |= {f"{folder}{key}": float(value) for key, value in found.items()}
            else:
                figures[name] = float(found)
        return figures

    def _monitors(self, trainer: Trainer) -> list[EarlyStopping | ModelCheckpoint]:
        callbacks = [*trainer.early_stopping_callbacks, *trainer.checkpoint_callbacks]
        monitors = [one for one in callbacks if isinstance(one, EarlyStopping | ModelCheckpoint)]
        return [one for one in monitors if (one.monitor or "").startswith(f"{self.name}/")]

    def _check_monitors(self, trainer: Trainer) -> None:
        """Refuse settings under which Lightning would look at other times than when there is something new to see."""
        for callback in self._monitors(trainer):
            kind = type(callback).__name__
            if isinstance(callback, EarlyStopping):
                wrong = "check_on_train_epoch_end: false" if callback._check_on_train_epoch_end else ""
            elif callback._every_n_train_steps or callback._train_time_interval:
                wrong = "neither every_n_train_steps nor train_time_interval: it saves after each measurement"
            else:
                wrong = "save_on_train_epoch_end: false" if callback._save_on_train_epoch_end is not False else ""
            if wrong:
                raise SettingsError(
                    f"{kind} monitors {callback.monitor}, which {type(self).__name__} measures while it trains, "
                    f"not at an epoch's end: give {kind} {wrong}"
                )

    def _ask_monitors(self, trainer: Trainer, pl_module: PolicyModule, logged: Mapping[str, float]) -> None:
        for callback in self._monitors(trainer):
            if callback.monitor not in logged:
                raise SettingsError(
                    f"{type(callback).__name__} monitors {callback.monitor}, which {type(self).__name__} does not "
                    f"measure; it measures {', '.join(logged)}"
                )
            callback.on_validation_end(trainer, pl_module)
