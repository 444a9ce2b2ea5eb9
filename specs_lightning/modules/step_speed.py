"""What a step costs: seconds of its phases, tokens a second, the share of the device's peak, and memory.

A figure of its own prefix (`speed/`), since it is another each time though all else is the same.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from specs_lightning.groups import GroupBatch
from specs_lightning.policy.families import vision_modules
from specs_lightning.policy.policy import Policy
from specs_lightning.records.metrics import SPEED
from specs_lightning.system.ranks import world_size

if TYPE_CHECKING:
    from transformers import PreTrainedModel

GIB = 2**30
PEAK_TFLOPS = {
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "H200": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "L4": 121.0,
    "A10": 125.0,
}
"""Dense bfloat16 operations a second, in 10¹², by a part of the device's name, the first that is found in it: from
NVIDIA's data sheets of these devices, which give twice as much for sparse matrices from the H100 on."""


def peak_tflops(device_name: str) -> float | None:
    words = device_name.replace("-", " ").split()
    return next((peak for name, peak in PEAK_TFLOPS.items() if set(name.split()) <= set(words)), None)


@dataclass(frozen=True)
class TokenOperations:
    """Of one token in the language model's weights. Attention and the vision tower are left out, so that less is
    counted than is done."""

    forward: int
    """Two for each multiplied weight."""
    backward: int
    """As many for the gradient of what came in, and for that of the weight, where it is trained."""


def operations_a_token(model: PreTrainedModel) -> TokenOperations:
    """Those of a model whose weights are stored one by one: not of one in 4 bits."""
    vision = {p for module in vision_modules(model) for p in module.parameters()}
    head = model.get_output_embeddings()
    looked_up = set(model.get_input_embeddings().parameters()) - set(head.parameters())
    multiplied = {p for p in model.parameters() if p.dim() > 1} - vision - looked_up
    return TokenOperations(
        forward=sum(2 * p.numel() for p in multiplied),
        backward=sum(p.numel() * (4 if p.requires_grad else 2) for p in multiplied),
    )


class StepSpeed:
    """A clock of one step's phases, in the order of their names' first use. A GPU is waited for once, when it is read.

    Args:
        device: of the policy. On a GPU the times are those of its own work, by events in its queue.
        tflops: its peak; that of the GPU if not given. Where it is not known, there is no MFU.
    """

    def __init__(self, device: torch.device, tflops: float | None = None) -> None:
        self.device = device
        self.tflops = tflops
        self._on_gpu = device.type == "cuda"
        self._spans: list[tuple[str, float | torch.cuda.Event, float | torch.cuda.Event]] = []
        if self._on_gpu:
            torch.cuda.reset_peak_memory_stats(device)
        self._start = self._now()

    def _now(self) -> float | torch.cuda.Event:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = self._now()
        yield
        self._spans.append((name, start, self._now()))

    def figures(self, policy: Policy, batch: GroupBatch) -> dict[str, float]:
        """What the step came to, by the names that are logged.

        Args:
            batch: the whole step's; a prompt counts once, however often it was run.
        """
        end = self._now()
        if self._on_gpu:
            torch.cuda.synchronize(self.device)
        figures: dict[str, float] = {}
        for name, begun, ended in self._spans:
            figures[f"{name}_seconds"] = figures.get(f"{name}_seconds", 0.0) + _between(begun, ended)
        seconds = figures["step_seconds"] = _between(self._start, end)
        tokens = sum(map(len, batch.prompts)) + int(batch.lengths_N.sum())
        rate = figures["tokens_per_second"] = tokens / seconds / world_size()
        peak = peak_tflops(torch.cuda.get_device_name(self.device)) if self._on_gpu else None
        if (peak := self.tflops or peak) and policy.settings.quantization is None:
            operations = operations_a_token(policy.model)  # what is recomputed is no use
            figures["mfu"] = rate * (operations.forward + operations.backward) / (peak * 1e12)
        figures["memory_gib"] = self._peak_bytes() / GIB
        return {f"{SPEED}{name}": value for name, value in figures.items()}

    def _peak_bytes(self) -> int:
        """Of this step in the device's memory; on a CPU, of the process since it began."""
        if self._on_gpu:
            return torch.cuda.max_memory_allocated(self.device)
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _between(start: float | torch.cuda.Event, end: float | torch.cuda.Event) -> float:
    """Seconds; both are of one device."""
    if isinstance(start, float) or isinstance(end, float):
        assert isinstance(start, float) and isinstance(end, float)
        return end - start
    milliseconds: float = start.elapsed_time(end)
    return milliseconds / 1000
