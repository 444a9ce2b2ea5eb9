"""GRPO with verifiable rewards: the short run that makes the seed model, and the final one (paper section 3.3)."""

from __future__ import annotations

from dataclasses import replace

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from specs_lightning.groups import GroupBatch
from specs_lightning.modules.step_loop import PolicyModule, ScheduleSettings
from specs_lightning.objectives import GRPO, LossTerms, token_share
from specs_lightning.policy import PolicySettings
from specs_lightning.reference import FrozenReference


class GRPOModule(PolicyModule):
    """Trains on the rollouts of a `RolloutDataModule`.

    Args:
        policy: the model to start from.
        objective: clipping, aggregation and the KL term.
        reference_model: where the KL term's reference is; the starting point if not given. Unused without one.
        optimizer: a class path of a torch optimizer with its settings.
        schedule: of the learning rate.
        max_tokens_per_micro_batch: how many tokens (padding included) one forward and backward pass takes.
        max_grad_norm: gradients are scaled down to this norm.
    """

    def __init__(
        self,
        policy: PolicySettings,
        objective: GRPO = GRPO(),  # noqa: B008  frozen
        reference_model: str | None = None,
        optimizer: OptimizerCallable = lambda p: torch.optim.AdamW(p, lr=1e-6, weight_decay=0.0),
        schedule: ScheduleSettings = ScheduleSettings(name="constant_with_warmup", warmup_share=0.0),  # noqa: B008
        max_tokens_per_micro_batch: int = 16384,
        max_grad_norm: float = 1.0,
    ) -> None:
        super().__init__(policy, optimizer, schedule, max_tokens_per_micro_batch, max_grad_norm)
        self.objective = objective
        self.reference_model = reference_model
        self._reference: FrozenReference | None = None

    def on_train_start(self) -> None:
        if self.objective.kl_coefficient:
            settings = replace(self.policy_settings, model=self.reference_model or self.policy_settings.model)
            self._reference = FrozenReference(settings, self.device)

    def prepare(self, batch: GroupBatch) -> GroupBatch:
        return self.objective.weigh(batch)

    def count(self, batch: GroupBatch) -> Tensor:
        return self.objective.count(batch)

    def loss(self, batch: GroupBatch, count: Tensor) -> LossTerms:
        scored = self.policy.token_logprobs(batch, batch.temperature, with_entropy=True)
        if self._reference is not None:
            batch.reference_logprobs_NT = self._reference.token_logprobs(batch)
        terms = self.objective(scored.logprobs, batch, count)
        assert scored.entropy is not None  # it was asked for
        terms.metrics["entropy"] = token_share(scored.entropy, batch.mask_NT)
        if batch.fresh and batch.old_logprobs_NT is not None:
            # The same policy on both sides: what is left is the engine's error.
            gap_NT = (scored.logprobs - batch.old_logprobs_NT).abs()
            terms.metrics["engine_gap"] = token_share(gap_NT, batch.mask_NT)
        return terms
