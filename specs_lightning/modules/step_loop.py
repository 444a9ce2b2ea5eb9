"""The step loop that the modules share: one optimizer step a Lightning batch, in micro-batches that fit the memory.

Manual optimization, because only the module knows how a step is split: the loss is scaled by counts over the whole
step and all ranks, so its gradient does not depend on the split.
"""

from __future__ import annotations

import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import torch
import transformers
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

from specs_lightning.data.policy_data import PolicyDataModule
from specs_lightning.errors import SpecsError
from specs_lightning.evaluation.outcome import EvaluationOutcome
from specs_lightning.evaluation.scores import logged
from specs_lightning.evaluation.sets import EvaluationSets
from specs_lightning.groups import EncodedPrompt, GroupBatch
from specs_lightning.modules.checkpoint_files import check_weights
from specs_lightning.modules.step_speed import StepSpeed
from specs_lightning.objectives import LossTerms
from specs_lightning.objectives.base import JoinedBy, Part
from specs_lightning.policy.loading import FLOAT32_WEIGHTS, PolicySettings, check_trainable
from specs_lightning.policy.model_files import model_digest, same_model
from specs_lightning.policy.policy import Policy
from specs_lightning.records.answers import Answer
from specs_lightning.records.metrics import earlier_names
from specs_lightning.system.random_state import random_state, set_random_state
from specs_lightning.system.ranks import failing_together, gather, rank, whole, world_size

log = logging.getLogger(__name__)

SKIPPED_STEPS_LIMIT = 10
"""So many steps in a row without a usable gradient end the run: it would not recover."""


class NothingLearned(SpecsError, RuntimeError):
    """A training whose steps are left out, one after the other."""


Phase = Literal["starting", "settled", "updating", "ended"]
"""What a checkpoint could be made of: nothing yet; the last step, complete; a step that is not (its weights may be
changed, and callbacks not done with it); a training of which only the end is left to do."""


@dataclass(frozen=True)
class ScheduleSettings:
    """How the learning rate goes over the run."""

    name: str = "cosine"
    """A scheduler of `transformers.get_scheduler`: cosine, linear, constant_with_warmup, constant, …"""
    warmup_share: float = 0.1
    """The share of the steps over which the rate rises: with n such steps, the first has 1/n of it."""


def default_tokens_per_micro_batch(device: str) -> int:
    """A GPU is idle under small products; a CPU core is busy with any, and few stay in its caches."""
    return 768 if device == "cpu" else 16384


def total_steps(steps_per_epoch: int, max_epochs: int | None, max_steps: int) -> int:
    """The steps of a whole training, by the Trainer's limits; a negative `max_steps` is none."""
    steps = steps_per_epoch * max(1, max_epochs or 1)
    return steps if max_steps < 0 else min(max_steps, steps)


class PolicyModule(LightningModule, ABC):
    """Trains a policy; subclasses say what the loss of a micro-batch is.

    Args:
        policy: the model.
        optimizer: a class path of a torch optimizer with its settings.
        schedule: of the learning rate.
        max_tokens_per_micro_batch: how many tokens (padding included) one forward and backward pass takes. If not
            given, 16384 on a GPU, and 768 on a CPU, where more at once is no faster and takes more memory.
        max_grad_norm: gradients are scaled down to this norm.
        peak_tflops: what the device computes at most in bfloat16, in 10¹² operations a second, of which `speed/mfu` is
            the share; if not given, that of the GPU, where it is known.
    """

    def __init__(
        self,
        policy: PolicySettings,
        optimizer: OptimizerCallable = lambda p: torch.optim.AdamW(p, lr=1e-6, weight_decay=0.0),
        schedule: ScheduleSettings = ScheduleSettings(),
        max_tokens_per_micro_batch: int | None = None,
        max_grad_norm: float = 1.0,
        peak_tflops: float | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.policy_settings = policy
        self.strict_loading = False  # checkpoints may hold what is trained alone: on_load_checkpoint looks
        self.optimizer_callable = optimizer
        self.schedule = schedule
        self.max_tokens_per_micro_batch = max_tokens_per_micro_batch
        self.max_grad_norm = max_grad_norm
        self.peak_tflops = peak_tflops
        self.policy: Policy = None  # type: ignore[assignment]  # built by configure_model, where it is to be sharded
        self.settings: dict[str, Any] = {}
        """The training's (`seed_everything`, `model`, `data`), as plain values; empty where it was not made by them."""
        self.outcome: EvaluationOutcome | None = None
        """What the last `validate`, `test` or `predict` came to."""
        self.steps = 0
        """Batches that were trained on, those without a usable gradient included."""
        self.skipped_in_a_row = 0
        self.phase: Phase = "starting"
        self._random_state: dict[str, Any] = {}
        self._resumed: dict[str, Any] | None = None

    # What a subclass says:
    whole_groups = False
    """Whether the loss compares the completions of a group, so that a group must not be split."""
    keeps_second_model = False
    """Whether a reference model lies beside the policy."""
    needs_old_logprobs = False
    """Whether steps after a round's first need the policy's own log-probabilities as they were at its start."""
    completions_per_pair = 2
    """How many completions of a preference pair the loss takes: the chosen one, or both."""

    @abstractmethod
    def denominator(self, batch: GroupBatch) -> Tensor:
        """What the step's loss is divided by, given all of it."""

    @abstractmethod
    def loss(self, batch: GroupBatch, denominator: Tensor) -> LossTerms:
        """The share of the step's loss of one micro-batch."""

    def prepare(self, batch: GroupBatch) -> GroupBatch:
        """Add to a whole step's batch, which is on the CPU, what its micro-batches need."""
        return batch

    def inspect(self, measured: dict[str, Tensor]) -> None:
        """Look at what a step measured, before it is logged."""
        return None

    @property
    def models(self) -> dict[str, str]:
        """The models that it begins with and compares with, by what they are for."""
        return {"policy": self.policy_settings.pinned}

    @cached_property
    def model_digests(self) -> dict[str, str]:
        """What these models are; taken once. All processes must ask."""
        found: dict[str, str] = {}
        with failing_together():
            if rank() == 0:
                found = {use: model_digest(model) for use, model in self.models.items()}
        return gather(found)[0]

    @property
    def micro_batch_tokens(self) -> int:
        return self.max_tokens_per_micro_batch or default_tokens_per_micro_batch(self.device.type)

    @property
    def data(self) -> PolicyDataModule:
        """What it trains on, and answers in evaluation."""
        return cast(PolicyDataModule, self.trainer.datamodule)  # type: ignore[attr-defined]

    def precision(self) -> AbstractContextManager[Any]:
        """The numeric precision of its steps, for forward passes outside of them."""
        return self.trainer.precision_plugin.forward_context()

    def setup(self, stage: str) -> None:
        precision = self.trainer.precision
        if precision in ("bf16-true", "16-true", "transformer-engine", "transformer-engine-float16"):
            what = f"trainer.precision {precision} would round rewards and log-probabilities, too"
            if stage == "fit":
                raise SpecsError(f"{what}, and {FLOAT32_WEIGHTS}")
            raise SpecsError(f"{what}: for weights in bfloat16 set model.policy.dtype to bfloat16")
        if stage == "fit":
            check_trainable(self.policy_settings)

    def configure_model(self) -> None:
        if self.policy is None:  # Lightning may ask more than once
            self.policy = self.load_policy(self.policy_settings)

    def load_policy(self, settings: PolicySettings) -> Policy:
        """A policy on its device. A strategy that shards puts its own method in place of this one."""
        return Policy(settings).to(self.device)

    def configure_optimizers(self) -> Any:
        trained = {name: p for name, p in self.policy.named_parameters() if p.requires_grad}
        if rounded := [name for name, p in trained.items() if torch.finfo(p.dtype).bits < 32]:
            raise SpecsError(f"{rounded[0]} is {trained[rounded[0]].dtype}: {FLOAT32_WEIGHTS}")
        optimizer = self.optimizer_callable(list(trained.values()))
        # Not trainer.estimated_stepping_batches: it would build the loader, and a resumed loader's state would be lost.
        steps = total_steps(self.data.steps_per_epoch, self.trainer.max_epochs, self.trainer.max_steps)
        warmup = round(self.schedule.warmup_share * steps)
        ahead = 1 if warmup else 0  # a warm-up's first rate is 0: a step with it would be in vain
        scheduler = transformers.get_scheduler(
            self.schedule.name, optimizer, num_warmup_steps=warmup, num_training_steps=steps + ahead
        )
        if ahead:
            with warnings.catch_warnings(action="ignore", category=UserWarning):  # of a step before the optimizer's
                scheduler.step()
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def _adapters(self) -> set[str]:
        return {name for name, weight in self.named_parameters() if ".lora_" in name}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.policy_settings.lora is not None:  # the model beside them is where it came from
            adapters = self._adapters()
            weights = checkpoint["state_dict"].items()
            checkpoint["state_dict"] = {name: weight for name, weight in weights if name in adapters}
        checkpoint["step_loop"] = {
            "models": self.model_digests,
            "steps": self.steps,
            "skipped_in_a_row": self.skipped_in_a_row,
            "policy_version": self.policy.version,
            # In the middle of a step: as it was when the step began, for it will be done again.
            "random_states": gather(self._random_state if self.phase == "settled" else random_state()),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._resumed = checkpoint.get("step_loop")
        if self._resumed is not None:
            self._check_models(self._resumed.get("models", {}))
        saved = checkpoint.get("state_dict")  # not with shards, which their strategy loads
        if saved is not None:
            check_weights(self, saved)

    def _check_models(self, saved: Mapping[str, str]) -> None:
        """Whether a checkpoint's models are those that are here, wherever they lie now."""
        for use, digest in self.model_digests.items():
            same = same_model(saved[use], digest) if use in saved else None
            place = f"the {use}'s model {self.models[use]}"
            if same is None:
                log.warning("it could not be checked that %s is the one that the checkpoint was made with", place)
            elif not same:
                raise SpecsError(
                    f"{place} is another than the one that the checkpoint was made with (their files differ): give "
                    "that one, or start a new training"
                )

    def on_train_start(self) -> None:
        """Subclasses call it last: nothing may draw random numbers between it and the first batch."""
        if self.trainer.checkpoint_callbacks:
            _ = self.model_digests  # of what was read just now: it may be moved or replaced before the first checkpoint
        resumed, self._resumed = self._resumed or {}, None
        self.steps, self.skipped_in_a_row = resumed.get("steps", 0), resumed.get("skipped_in_a_row", 0)
        if resumed:
            self.policy.version = resumed["policy_version"]  # loading the weights has counted as a change
            if len(resumed["random_states"]) == world_size():
                set_random_state(resumed["random_states"][rank()])

    def on_train_batch_start(self, batch: GroupBatch, batch_idx: int) -> None:
        self._settle()

    def on_train_batch_end(self, outputs: Any, batch: GroupBatch, batch_idx: int) -> None:
        if self.at_last_step:
            self.phase = "ended"
        else:
            self._settle()

    def _settle(self) -> None:
        self.phase, self._random_state = "settled", random_state()

    @property
    def at_last_step(self) -> bool:
        """Whether training ends with the current batch."""
        trainer = self.trainer
        if trainer.should_stop or 0 <= trainer.max_steps <= trainer.global_step:
            return True
        return trainer.is_last_batch and trainer.current_epoch + 1 == trainer.max_epochs

    def training_step(self, batch: GroupBatch, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        scheduler: Any = self.lr_schedulers()
        speed = StepSpeed(self.device, self.peak_tflops)
        batch = self.prepare(batch)
        denominator = self.denominator(batch).float()  # all ranks have the whole step, and the same
        optimizer.zero_grad()
        figures = self._gradients(batch, denominator.to(self.device), speed) if denominator else {}
        usable = self._is_usable(figures.get("grad_norm"))
        self.phase = "updating"
        if usable:
            with speed.phase("optimizer"):
                optimizer.step()
            self.policy.version += 1
        rate = scheduler.get_last_lr()[0]
        scheduler.step()
        logged: dict[str, Any] = {**figures, **batch.metrics, "lr": rate, "skipped": float(not usable)}
        named = {f"train/{name}": float(value) for name, value in logged.items()}
        self._log(named | speed.figures(self.policy, batch), len(batch))
        if "loss" in figures:
            self.log("loss", figures["loss"], prog_bar=True, logger=False, batch_size=len(batch))
        self.steps += 1

    def _gradients(self, batch: GroupBatch, denominator: Tensor, speed: StepSpeed) -> dict[str, Tensor]:
        """Leave the step's gradients with the weights, scaled down to the norm allowed; what was measured of it."""
        loss = torch.zeros((), device=self.device)
        parts: list[dict[str, Part]] = []
        split = self.policy.micro_batches(batch, self.micro_batch_tokens, self.whole_groups)
        for number, micro_batch in enumerate(split, 1):
            with self._gradients_kept_back(number < len(split)):
                with speed.phase("forward"):
                    terms = self.loss(micro_batch.to(self.device), denominator)
                with speed.phase("backward"):
                    # Ranks average their gradients; the loss is already a share of the sum over ranks.
                    self.manual_backward(terms.loss * self.trainer.world_size)
            loss += terms.loss.detach()
            parts.append(terms.metrics)
        measured = self._measured(parts)
        self.inspect(measured)
        norm = whole(torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm))
        return {"loss": self._over_ranks(loss), **measured, "grad_norm": norm}

    def _log(self, figures: dict[str, float], batch_size: int) -> None:
        """To the loggers at once: Lightning would log a step after its checkpoint, and a kill between lose it."""
        self.log_dict({**figures, **earlier_names(figures)}, logger=False, batch_size=batch_size)  # for monitors
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and (self.steps + 1) % every == 0:
            for logger in self.loggers:
                logger.log_metrics({**figures, "epoch": self.current_epoch}, step=self.steps)

    def _gradients_kept_back(self, so: bool) -> AbstractContextManager[None]:
        """DDP sums gradients up over the ranks once a step: in its last micro-batch."""
        strategy = self.trainer.strategy
        return strategy.block_backward_sync() if so and isinstance(strategy, DDPStrategy) else nullcontext()

    def _is_usable(self, norm: Tensor | None) -> bool:
        """A step without a finite gradient, or with none at all, is left out and counted; too many in a row end the
        run."""
        if norm is not None and torch.isfinite(norm):
            self.skipped_in_a_row = 0
            return True
        if norm is None:
            why = "nothing in it counts: every completion is masked, or could not be scored"
            remedy = "raise data.sampling.max_tokens if they are cut off, and look at why completions are unscored"
        else:
            why = f"the gradient's norm is {norm.item()}"
            remedy = "lower the learning rate, or look for NaN in the weights that training started from"
        self.skipped_in_a_row += 1
        log.warning("step %d left out: %s", self.steps, why)
        if self.skipped_in_a_row >= SKIPPED_STEPS_LIMIT:
            raise NothingLearned(f"{SKIPPED_STEPS_LIMIT} steps in a row were left out, of the last {why}: {remedy}")
        return False

    def _measured(self, parts: Iterable[dict[str, Part]]) -> dict[str, Tensor]:
        """Each metric over the micro-batches of all ranks."""
        joined: dict[str, Part] = {}
        for metrics in parts:
            for name, part in metrics.items():
                joined[name] = joined[name].join(part) if name in joined else part
        return {name: part.over_ranks(self._over_ranks).value for name, part in joined.items()}

    def _over_ranks(self, value: Tensor, reduce_op: JoinedBy = "sum") -> Tensor:
        return self.trainer.strategy.reduce(value, reduce_op=reduce_op)

    @property
    def evaluation_sets(self) -> EvaluationSets:
        sets = self.data.evaluation_sets
        assert sets is not None  # the data module makes them with its loaders
        return sets

    def _ask(self, batch: list[EncodedPrompt], dataloader_idx: int) -> list[Answer]:
        sets = self.evaluation_sets
        return [one.answer for one in sets.ask(self.policy, list(sets.prompts)[dataloader_idx], batch)]

    def _finish(self) -> EvaluationOutcome:
        """The answers of all processes and earlier starts, put together and written."""
        sets, command = self.evaluation_sets, self.trainer.state.fn.value  # type: ignore[union-attr]  # one is running
        self.outcome = EvaluationOutcome(command, str(self.policy.source), self.trainer.ckpt_path, sets.answers())
        sets.close()
        self.data.engine.release()
        if self.trainer.is_global_zero:
            self.outcome.write(Path(self.trainer.default_root_dir), sets.prompts)
        return self.outcome

    def test_step(self, batch: list[EncodedPrompt], batch_idx: int, dataloader_idx: int = 0) -> None:
        self._ask(batch, dataloader_idx)

    def on_test_epoch_end(self) -> None:
        self.log_dict(logged(self._finish().scores))

    validation_step, on_validation_epoch_end = test_step, on_test_epoch_end

    def predict_step(self, batch: list[EncodedPrompt], batch_idx: int, dataloader_idx: int = 0) -> list[dict[str, Any]]:
        # As rows: Lightning moves what it is given to the CPU, and refuses frozen dataclasses.
        return [answer.as_row() for answer in self._ask(batch, dataloader_idx)]

    def on_predict_epoch_end(self) -> None:
        self._finish()
