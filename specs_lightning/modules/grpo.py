"""GRPO with verifiable rewards: the short run that makes the seed model, and the final one (paper section 3.3)."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from specs_lightning.groups import GroupBatch
from specs_lightning.modules.step_loop import PolicyModule, ScheduleSettings
from specs_lightning.objectives import GRPO, LossTerms, token_share
from specs_lightning.policy.loading import PolicySettings
from specs_lightning.policy.reference import AdapterOffReference, FrozenReference, Reference
from specs_lightning.rollout.truncation import kept_logmass

log = logging.getLogger(__name__)


class GRPOModule(PolicyModule):
    """Trains on the rollouts of a `RolloutDataModule`.

    Args:
        policy: the model to start from.
        objective: clipping, aggregation, the KL term, and what is done where engine and trainer disagree.
        reference_model: where the KL term's reference is; the starting point if not given, which with LoRA is the
            policy without its adapters. Unused without a KL term.
        schedule: of the learning rate.
        **kwargs: those of every `PolicyModule`.
    """

    def __init__(
        self,
        policy: PolicySettings,
        objective: GRPO = GRPO(),  # noqa: B008  frozen
        reference_model: str | None = None,
        schedule: ScheduleSettings = ScheduleSettings(name="constant_with_warmup", warmup_share=0.0),  # noqa: B008
        **kwargs: Any,
    ) -> None:
        super().__init__(policy, schedule=schedule, **kwargs)
        self.objective = objective
        self.needs_old_logprobs = objective.mismatch.kind != "none"
        starting_point = reference_model in (None, policy.model, policy.pinned)
        self.keeps_second_model = bool(objective.kl_coefficient) and not (starting_point and policy.lora)
        self.reference_model = reference_model
        self._reference: Reference | None = None
        self._mismatched = False
        """Whether engine and trainer were too far apart when last looked at."""

    @property
    def models(self) -> dict[str, str]:
        reference = {"reference": self.reference_model or self.policy_settings.pinned}
        return super().models | (reference if self.keeps_second_model else {})

    def on_train_start(self) -> None:
        if self.keeps_second_model:
            settings = self.policy_settings
            if self.reference_model is not None:
                settings = replace(settings, model=self.reference_model, revision=None)
            self._reference = FrozenReference(self.load_policy(settings))
        elif self.objective.kl_coefficient:
            self._reference = AdapterOffReference(self.policy)
        super().on_train_start()

    def prepare(self, batch: GroupBatch) -> GroupBatch:
        return self.objective.weigh(batch)

    def denominator(self, batch: GroupBatch) -> Tensor:
        return self.objective.denominator(batch)

    def loss(self, batch: GroupBatch, denominator: Tensor) -> LossTerms:
        bonus = self.objective.entropy_coefficient > 0
        cut = batch.truncation if batch.fresh else None  # later, the policy is not the one that sampled
        observe = None if cut is None else partial(kept_logmass, truncation=cut)
        scored = self.policy.token_logprobs(
            batch, batch.temperature, with_entropy=True, entropy_gradient=bonus, observe=observe
        )
        batch.kept_logmass_NT = scored.observed
        if self._reference is not None:
            batch.reference_logprobs_NT = self._reference.token_logprobs(batch)
        terms = self.objective(scored.logprobs, batch, denominator, scored.entropy)
        assert scored.entropy is not None  # it was asked for
        terms.metrics["entropy"] = token_share(scored.entropy, batch.mask_NT)
        return terms

    def inspect(self, measured: dict[str, Tensor]) -> None:
        """Warn when engine and trainer come to disagree: once, until they have agreed again."""
        if "mismatch/mean" not in measured:
            return
        difference, limit = measured["mismatch/mean"].item(), self.objective.mismatch.warn_above
        mismatched = not difference <= limit  # a difference that is not a number is none to be content with
        if mismatched and not self._mismatched and self.trainer.is_global_zero:
            log.warning(
                "step %d: log-probabilities of rollout engine and trainer differ by %.3g nats in the mean, more than "
                "mismatch.warn_above (%g): completions come from another policy than the one that is trained. See that "
                "the engine has the current weights, computes in the trainer's precision and samples without penalties "
                "or a top_p or top_k of its own. What remains, model.objective.mismatch.kind corrects (truncated or "
                "masked).",
                self.steps,
                difference,
                limit,
            )
        self._mismatched = mismatched
