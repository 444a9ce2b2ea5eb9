"""The cold start: preference pairs or their chosen side, by DPO + λ·SFT (paper section 3.2), another loss, or SFT."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from specs_lightning.data.preference import PreferenceDataModule
from specs_lightning.errors import SpecsError
from specs_lightning.groups import GroupBatch
from specs_lightning.modules.step_loop import PolicyModule
from specs_lightning.objectives import DPO, ColdStartObjective, LossTerms
from specs_lightning.policy.loading import PolicySettings
from specs_lightning.policy.reference import AdapterOffReference, FrozenReference, Reference, sequence_logprobs


class ColdStartModule(PolicyModule):
    """Trains on preference data. The policy's starting point is also the reference, as in the paper.

    Args:
        policy: the model to start from, which is also the reference.
        objective: `DPO` (with its SFT term), another preference objective, or `SFT`.
        reference: `cached` computes the reference's log-probabilities of all pairs once, before the first step, and
            keeps them with the checkpoint; `frozen` keeps a second model and asks it at every step; `adapter_off` (with
            LoRA) asks the policy without its adapters.
        **kwargs: those of every `PolicyModule`.
    """

    def __init__(
        self,
        policy: PolicySettings,
        objective: ColdStartObjective = DPO(),  # noqa: B008  frozen
        reference: Literal["cached", "frozen", "adapter_off"] = "cached",
        **kwargs: Any,
    ) -> None:
        super().__init__(policy, **kwargs)
        if reference == "adapter_off" and policy.lora is None:
            raise ValueError("reference adapter_off is the policy without its adapters: it needs policy.lora")
        self.objective = objective
        self.completions_per_pair = objective.completions_per_prompt
        self.whole_groups = self.completions_per_pair > 1
        self.keeps_second_model = objective.needs_reference and reference == "frozen"
        self.reference = reference
        self.reference_logprobs: Tensor | None = None
        """(rows of the data set, completions per prompt), on the CPU."""
        self._asked: Reference | None = None
        """What is asked at every step."""

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
            if not isinstance(self.data, PreferenceDataModule):
                raise SpecsError("model.reference cached is of pairs: it needs a PreferenceDataModule as data")
            with self.precision():  # as in the steps, or the two would differ
                sums = sequence_logprobs(self.policy, self.data.in_order(), self.micro_batch_tokens)
            self.reference_logprobs = sums.view(-1, self.completions_per_pair)

    def prepare(self, batch: GroupBatch) -> GroupBatch:
        if self.reference_logprobs is not None and batch.index_N is not None:
            rows = batch.index_N.view(-1, self.completions_per_pair)[:, 0]
            batch.reference_logprobs_N = self.reference_logprobs[rows].flatten()
        return batch

    def denominator(self, batch: GroupBatch) -> Tensor:
        return self.objective.denominator(batch)

    def loss(self, batch: GroupBatch, denominator: Tensor) -> LossTerms:
        if self._asked is not None:
            batch.reference_logprobs_N = self._asked.token_logprobs(batch).sum(-1)
        return self.objective(self.policy.token_logprobs(batch).logprobs, batch, denominator)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["reference_logprobs"] = self.reference_logprobs

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.reference_logprobs = checkpoint.get("reference_logprobs")  # another objective's has none
