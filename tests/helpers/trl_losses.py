"""TRL's own loss code, run on given log-probabilities: the trainers without their models, data and accelerator."""

from __future__ import annotations

import ast
import inspect
import math
import textwrap
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from trl import import_utils

# TRL would import vLLM on sight, which takes a minute and is of no use here.
import_utils.is_vllm_available = lambda *args, **kwargs: False

from trl.trainer.dpo_trainer import DPOTrainer  # noqa: E402
from trl.trainer.grpo_trainer import GRPOTrainer  # noqa: E402
from trl.trainer.rloo_trainer import RLOOTrainer  # noqa: E402
from trl.trainer.utils import nanstd  # noqa: E402

__all__ = [
    "nanstd",
    "trl_advantages",
    "trl_dpo_loss",
    "trl_grpo_loss",
    "trl_importance_sampling_ratio",
    "trl_rloo_advantages",
]


def _accelerator() -> SimpleNamespace:
    def same(tensor: Tensor, **options: str) -> Tensor:
        return tensor

    return SimpleNamespace(
        device=torch.device("cpu"),
        num_processes=1,
        gather=same,
        gather_for_metrics=same,
        reduce=same,
        sync_gradients=True,
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
    importance_sampling_ratio: Tensor | None = None,
    delta: float | None = None,
    temperatures: tuple[float, float] = (1.0, 1.0),
    entropy_NT: Tensor | None = None,
    entropy_coefficient: float = 0.0,
) -> Tensor:
    """`GRPOTrainer._compute_loss` of a whole step in one batch, on one process."""
    trainer = GRPOTrainer.__new__(GRPOTrainer)
    trainer.model = SimpleNamespace(training=True)
    trainer.accelerator = _accelerator()
    trainer.args = SimpleNamespace(
        delta=delta,
        use_bias_correction_kl=False,
        steps_per_generation=1,
        sapo_temperature_pos=temperatures[0],
        sapo_temperature_neg=temperatures[1],
    )
    trainer.loss_type, trainer.importance_sampling_level = loss_type, level
    trainer.epsilon_low, trainer.epsilon_high, trainer.beta = clip_low, clip_high, kl_coefficient
    trainer.max_completion_length = max_completion_length
    trainer.current_gradient_accumulation_steps = 1
    trainer.top_entropy_quantile = 1.0
    trainer.off_policy_mask_threshold = None
    trainer.use_vllm = trainer.vllm_importance_sampling_correction = importance_sampling_ratio is not None
    trainer.aux_loss_enabled = trainer.use_adaptive_entropy = False
    trainer._entropy_bonus_enabled, trainer.entropy_coef = entropy_coefficient > 0, entropy_coefficient
    trainer._metrics = {"train": defaultdict(list)}
    entropies_NT = torch.zeros_like(logprobs_NT) if entropy_NT is None else entropy_NT
    trainer._get_per_token_logps_and_entropies = lambda *args, **kwargs: (logprobs_NT, entropies_NT, None)
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
        "importance_sampling_ratio": importance_sampling_ratio,
    }
    return trainer._compute_loss(None, inputs)


def trl_importance_sampling_ratio(
    old_logprobs_NT: Tensor,
    sampler_logprobs_NT: Tensor,
    mask_NT: Tensor,
    *,
    mode: str,
    clip_min: float | None,
    clip_max: float | None,
) -> Tensor:
    """What TRL multiplies the loss by: (N, T), or (N, 1) at sequence level.

    The lines that compute it, cut out of `GRPOTrainer._generate_and_score_completions`, which also samples, scores
    and gathers.
    """
    method = ast.parse(textwrap.dedent(inspect.getsource(GRPOTrainer._generate_and_score_completions)))
    (block,) = (n for n in ast.walk(method) if isinstance(n, ast.If) and _assigns(n, "per_token_logps_diff"))
    settings = SimpleNamespace(
        use_vllm=True,
        vllm_importance_sampling_correction=True,
        vllm_importance_sampling_mode=mode,
        vllm_importance_sampling_clip_min=clip_min,
        vllm_importance_sampling_clip_max=clip_max,
    )
    names: dict[str, Any] = {
        "torch": torch,
        "math": math,
        "self": settings,
        "old_per_token_logps": old_logprobs_NT,
        "sampling_per_token_logps": sampler_logprobs_NT,
        "completion_mask": mask_NT.long(),
        "tool_mask": None,
    }
    exec(compile(ast.Module([block], []), "<TRL>", "exec"), names)
    return names["vllm_importance_sampling_ratio"]


def _assigns(block: ast.If, name: str) -> bool:
    """Whether a statement directly in the block assigns to this name."""
    targets = [target for node in block.body if isinstance(node, ast.Assign) for target in node.targets]
    return any(isinstance(target, ast.Name) and target.id == name for target in targets)


def trl_advantages(rewards_NK: Tensor, weights_K: Tensor, group_size: int, *, aggregation: str, scale: str) -> Tensor:
    """(N,) advantages of `GRPOTrainer` from each reward's values: the lines that compute them, cut out of its method.

    Args:
        aggregation: `sum_then_normalize` or `normalize_then_sum`.
        scale: group, batch or none.
    """
    method = ast.parse(textwrap.dedent(inspect.getsource(GRPOTrainer._generate_and_score_completions)))
    (block,) = (n for n in ast.walk(method) if isinstance(n, ast.If) and "sum_then_normalize" in ast.dump(n.test))
    names: dict[str, Any] = {
        "torch": torch,
        "nanstd": nanstd,
        "self": SimpleNamespace(
            multi_objective_aggregation=aggregation,
            scale_rewards=scale,
            reward_weights=weights_K,
            reward_funcs=[None] * len(weights_K),
        ),
        "device": rewards_NK.device,
        "rewards_per_func": rewards_NK,
        "num_generations": group_size,
        "unscorable_mask": rewards_NK.isnan().all(1),
    }
    exec(compile(ast.Module([block], []), "<TRL>", "exec"), names)
    return names["advantages"].nan_to_num(0.0)


def trl_rloo_advantages(rewards_N: Tensor, group_size: int) -> Tensor:
    """(N,) advantages of `RLOOTrainer`, not normalised: the lines that compute them, cut out of its method."""
    method = ast.parse(textwrap.dedent(inspect.getsource(RLOOTrainer._generate_and_score_completions)))
    assert isinstance(method.body[0], ast.FunctionDef)
    body = method.body[0].body
    first, last = (i for i, n in enumerate(body) if ast.unparse(n).startswith(("grouped_rewards =", "is_std_zero =")))
    names: dict[str, Any] = {
        "torch": torch,
        "nanstd": nanstd,
        "self": SimpleNamespace(normalize_advantages=False),
        "rewards": rewards_N,
        "num_generations": group_size,
    }
    exec(compile(ast.Module(body[first:last], []), "<TRL>", "exec"), names)
    return names["advantages"]


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
    loss_type: str = "sigmoid",
) -> tuple[Tensor, dict[str, float]]:
    """`DPOTrainer._compute_loss` with a preference loss and the sft term, and the metrics that it logs."""
    trainer = DPOTrainer.__new__(DPOTrainer)
    trainer.model = SimpleNamespace(training=True)
    trainer.accelerator = _accelerator()
    trainer.aux_loss_enabled = trainer.use_weighting = False
    trainer.ld_alpha = None
    trainer.precompute_ref_logps = True
    trainer.f_divergence_type = "reverse_kl"
    trainer.loss_types, trainer.loss_weights = [loss_type, "sft"], [1.0, sft_weight]
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
