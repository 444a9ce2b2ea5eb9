"""The cold start: preference pairs or their chosen side, by DPO + λ·SFT, plain DPO, or SFT (paper section 3.2)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from specs_lightning.groups import GroupBatch
from specs_lightning.modules.step_loop import PolicyModule, ScheduleSettings
from specs_lightning.objectives import DPO, ColdStartObjective, LossTerms
from specs_lightning.policy.loading import PolicySettings
from specs_lightning.policy.reference import AdapterOffReference, FrozenReference, Reference, sequence_logprobs


class ColdStartModule(PolicyModule):
    """Trains on preference data. The policy's starting point is also the reference, as in the paper.

    Args:
        policy: the model to start from, which is also the reference.
        objective: `DPO` (with its SFT term) or `SFT`.
        reference: `cached` computes the reference's log-probabilities of all pairs once, before the first step, and
            keeps them with the checkpoint; `frozen` keeps a second model and asks it at every step; `adapter_off` (with
            LoRA) asks the policy without its adapters.
        optimizer: a class path of a torch optimizer with its settings.
        schedule: of the learning rate.
        max_tokens_per_micro_batch: how many tokens (padding included) one forward and backward pass takes. If not
            given, 16384 on a GPU, and 768 on a CPU, where more at once is no faster and takes more memory.
        max_grad_norm: gradients are scaled down to this norm.
    """

    def __init__(
        self,
        policy: PolicySettings,
        objective: ColdStartObjective = DPO(),  # noqa: B008  frozen
        reference: Literal["cached", "frozen", "adapter_off"] = "cached",
        optimizer: OptimizerCallable = lambda p: torch.optim.AdamW(p, lr=1e-6, weight_decay=0.0),
        schedule: ScheduleSettings = ScheduleSettings(),  # noqa: B008  frozen
        max_tokens_per_micro_batch: int | None = None,
        max_grad_norm: float = 1.0,
    ) -> None:
        super().__init__(policy, optimizer, schedule, max_tokens_per_micro_batch, max_grad_norm)
        if reference == "adapter_off" and policy.lora is None:
            raise ValueError("reference adapter_off is the policy without its adapters: it needs policy.lora")
        self.objective = objective
        self.reference = reference
        self.reference_logprobs: Tensor | None = None
        """(rows of the data set, completions per prompt), on the CPU."""
        self._asked: Reference | None = None
        """What is asked at every step."""

    @property
    def whole_groups(self) -> bool:  # type: ignore[override]
        return self.objective.completions_per_prompt > 1

    @property
    def keeps_second_model(self) -> bool:  # type: ignore[override]
        return self.objective.needs_reference and self.reference == "frozen"

    def on_train_start(self) -> None:
        if self.objective.needs_reference:
            self._prepare_reference()
        super().on_train_start()

    def _prepare_reference(self) -> None:
        if self.reference == "frozen":
            self._asked = FrozenReference(self.load_policy(self.policy_settings))
        elif self.reference == "adapter_off":
            self._asked = AdapterOffReference(self.policy)
        elif self.reference_logprobs is None:
            if self.global_step:
                raise RuntimeError("the checkpoint has no reference log-probabilities: it is not of this objective")
            with self.trainer.precision_plugin.forward_context():  # as in the steps, or the two would differ
                sums = sequence_logprobs(self.policy, self.data.in_order(), self.micro_batch_tokens)
            self.reference_logprobs = sums.view(-1, self.objective.completions_per_prompt)

    def prepare(self, batch: GroupBatch) -> GroupBatch:
        if self.reference_logprobs is not None and batch.index_N is not None:
            rows = batch.index_N.cpu().view(-1, self.objective.completions_per_prompt)[:, 0]
            batch.reference_logprobs_N = self.reference_logprobs[rows].flatten().to(self.device)
        return batch

    def count(self, batch: GroupBatch) -> Tensor:
        return self.objective.count(batch)

    def loss(self, batch: GroupBatch, count: Tensor) -> LossTerms:
        if self._asked is not None:
            batch.reference_logprobs_N = self._asked.token_logprobs(batch).sum(-1)
        return self.objective(self.policy.token_logprobs(batch).logprobs, batch, count)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["reference_logprobs"] = self.reference_logprobs

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.reference_logprobs = checkpoint.get("reference_logprobs")  # another objective's has none
