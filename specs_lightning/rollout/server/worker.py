"""What runs inside vLLM: taking the policy's weights, never sampling a vision token, and beside a training its device.

vLLM finds the classes by their qualified names; nothing else imports this module.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.platforms import current_platform
from vllm.v1.executor.uniproc_executor import UniProcExecutor
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor

from specs_lightning.policy.families import vision_token_ids
from specs_lightning.rollout.weights import Backend, Layout, WeightGroup
from specs_lightning.system.ranks import failing_together


class PolicyWorker:
    """Mixed into vLLM's worker class (`worker_extension_cls`)."""

    model_runner: Any
    rank: int
    device: torch.device
    weight_group: WeightGroup

    def load_policy_weights(self, named_weights: Iterable[tuple[str, Tensor]]) -> None:
        """Take weights by their Hugging Face names."""
        self.model_runner.reload_weights(weights_iterator=named_weights)
        self.repack_heads()

    def load_policy_folder(self, folder: str) -> None:
        """Take the weights of all safetensors files in a folder."""
        self.load_policy_weights(_weights_in(Path(folder)))

    def join_weight_group(self, host: str, port: int, backend: Backend, timeout_s: float, size: int) -> None:
        """Meet the trainer, to which this worker is a rank of its own."""
        self.weight_group = WeightGroup.join(host, port, 1 + self.rank, size, backend, timeout_s)

    def receive_policy_weights(self, layout: Layout) -> None:
        """Take the weights that the trainer sends, one at a time."""
        received = self.weight_group.receive(layout, self.device)
        try:
            self.load_policy_weights(received)
        finally:
            deque(received, maxlen=0)  # the trainer sends to the end, even if a weight did not fit

    def repack_heads(self) -> None:
        """A head tied to the embeddings is skipped by the reload, and on a CPU would keep its old packed copy."""
        for module in self.model_runner.get_model().modules():
            if isinstance(module, ParallelLMHead):
                module.quant_method.process_weights_after_loading(module)


class BesideTraining(UniProcExecutor):
    """Runs the model in a training process, on its device.

    Where a training has several processes, vLLM makes groups of them as it starts, each to work alone in: they must all
    be there, or none goes on.
    """

    def _init_executor(self) -> None:
        with failing_together():
            pass
        super()._init_executor()

    def _distributed_args(self) -> tuple[str, int, int]:
        place, rank, _ = super()._distributed_args()
        return place, rank, 0 if current_platform.is_cpu() else torch.accelerator.current_device_index()


class BanVisionTokens(LogitsProcessor):
    """Gives vision token ids no probability: a completion has no image behind them, and the policy bans them, too."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        ids = vision_token_ids(vllm_config.model_config.hf_config)
        self.banned_ids = torch.tensor(ids, dtype=torch.long, device=device)

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        return None  # the same for every request

    def apply(self, logits: Tensor) -> Tensor:
        return logits.index_fill_(-1, self.banned_ids, float("-inf"))


def _weights_in(folder: Path) -> Iterable[tuple[str, Tensor]]:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no safetensors files")
    for file in files:
        with safe_open(file, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118  not a mapping
                yield name, weights.get_tensor(name)
