"""TRL's own loss code, run on given log-probabilities: the trainers without their models, data and accelerator."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace

import torch
from torch import Tensor
from trl import import_utils

# TRL would import vLLM on sight, which takes a minute and is of no use here.
import_utils.is_vllm_available = lambda *args, **kwargs: False

from trl.trainer.dpo_trainer import DPOTrainer  # noqa: E402
from trl.trainer.grpo_trainer import GRPOTrainer  # noqa: E402
from trl.trainer.utils import nanstd  # noqa: E402

__all__ = ["nanstd", "trl_dpo_loss", "trl_grpo_loss"]


def _accelerator() -> SimpleNamespace:
    def same(tensor: Tensor, **options: str) -> Tensor:
        return tensor

    return SimpleNamespace(
        device=torch.device("cpu"), num_processes=1, gather=same, gather_for_metrics=same, reduce=same
    )


def trl_grpo_loss(
    logprobs_NT: Tensor,
    mask_NT: Tensor,
    advantages_N: Tensor,
    old_logprobs_NT: Tensor | None = None,
    reference_logprobs_NT: Tensor | None = None,
    *,
    loss_type: str = "dapo",
    level: str = "token",
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    kl_coefficient: float = 0.0,
    max_completion_length: int = 0,
) -> Tensor:
    """`GRPOTrainer._compute_loss` of a whole step in one batch, on one process."""
    trainer = GRPOTrainer.__new__(GRPOTrainer)
    trainer.model = SimpleNamespace(training=True)
    trainer.accelerator = _accelerator()
    trainer.args = SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1)
    trainer.loss_type, trainer.importance_sampling_level = loss_type, level
    trainer.epsilon_low, trainer.epsilon_high, trainer.beta = clip_low, clip_high, kl_coefficient
    trainer.max_completion_length = max_completion_length
    trainer.current_gradient_accumulation_steps = 1
    trainer.top_entropy_quantile = 1.0
    trainer.off_policy_mask_threshold = None
    trainer.use_vllm = trainer.aux_loss_enabled = trainer._entropy_bonus_enabled = False
    trainer._metrics = {"train": defaultdict(list)}
    trainer._get_per_token_logps_and_entropies = lambda *args, **kwargs: (
        logprobs_NT,
        torch.zeros_like(logprobs_NT),
        None,
    )
    ids_NT = torch.zeros_like(mask_NT, dtype=torch.long)
    inputs = {
        "prompt_ids": ids_NT[:, :1],
        "prompt_mask": ids_NT[:, :1],
        "completion_ids": ids_NT,
        "completion_mask": mask_NT.long(),
        "advantages": advantages_N,
        "num_items_in_batch": mask_NT.sum(),
        "old_per_token_logps": old_logprobs_NT,
        "ref_per_token_logps": reference_logprobs_NT,
    }
    return trainer._compute_loss(None, inputs)


def trl_dpo_loss(
    chosen_logprobs_PT: Tensor,
    rejected_logprobs_PT: Tensor,
    chosen_mask_PT: Tensor,
    rejected_mask_PT: Tensor,
    chosen_reference_P: Tensor,
    rejected_reference_P: Tensor,
    *,
    beta: float,
    sft_weight: float,
) -> tuple[Tensor, dict[str, float]]:
    """`DPOTrainer._compute_loss` with the sigmoid and the sft term, and the metrics that it logs."""
    trainer = DPOTrainer.__new__(DPOTrainer)
    trainer.model = SimpleNamespace(training=True)
    trainer.accelerator = _accelerator()
    trainer.aux_loss_enabled = trainer.use_weighting = False
    trainer.ld_alpha = None
    trainer.precompute_ref_logps = True
    trainer.f_divergence_type = "reverse_kl"
    trainer.loss_types, trainer.loss_weights = ["sigmoid", "sft"], [1.0, sft_weight]
    trainer.beta = beta
    trainer._total_train_tokens, trainer._tp_size = 0, 1
    trainer._metrics = {"train": defaultdict(list)}
    mask = torch.nn.functional.pad(torch.cat([chosen_mask_PT, rejected_mask_PT]).long(), (1, 0))  # behind one token
    logprobs = torch.cat([chosen_logprobs_PT, rejected_logprobs_PT]) * mask[:, 1:]
    outputs = SimpleNamespace(
        log_probs=logprobs,
        entropy=torch.zeros_like(logprobs),
        mean_logits=torch.zeros_like(logprobs),
        is_top1=torch.zeros_like(logprobs, dtype=torch.bool),
    )
    inputs = {
        "input_ids": torch.zeros_like(mask),
        "attention_mask": torch.ones_like(mask),
        "completion_mask": mask,
        "ref_chosen_logps": chosen_reference_P,
        "ref_rejected_logps": rejected_reference_P,
    }
    loss = trainer._compute_loss(lambda **kwargs: outputs, inputs, return_outputs=False)
    return loss, {name: values[0] for name, values in trainer._metrics["train"].items()}
