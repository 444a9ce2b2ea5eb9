"""One measurement of specs-lightning, in a process of its own: started by `compare.py`, which says what it measures."""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from workloads import Workload

MODES = ("dpo", "grpo-hf", "grpo-vllm")
TOWERS = ("trained", "frozen", "frozen, run anew")
"""The vision tower: as the peers have it, frozen, and frozen without keeping what it made of an image."""


class Meter:
    """CPU seconds by phase (a phase within another counts for itself alone) and counts of work, while it is on."""

    def __init__(self) -> None:
        self.on = False
        self.seconds: Counter[str] = Counter()
        self.work: Counter[str] = Counter()
        self._open: list[float] = []

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = time.process_time()
        self._open.append(0.0)
        try:
            yield
        finally:
            taken = time.process_time() - start
            within = self._open.pop()
            if self._open:
                self._open[-1] += taken
            if self.on:
                self.seconds[name] += taken - within

    def time(self, owner: Any, name: str, phase: str | Callable[[], str]) -> None:
        """Measure each call of a method."""
        method = getattr(owner, name)

        def measured(*args: Any, **kwargs: Any) -> Any:
            with self.phase(phase if isinstance(phase, str) else phase()):
                return method(*args, **kwargs)

        setattr(owner, name, measured)

    def count(self, name: str, amount: int) -> None:
        if self.on:
            self.work[name] += amount


def measure(
    mode: str, folder: Path, workload: Workload, warmup: int, steps: int, tower: str = "trained"
) -> dict[str, Any]:
    import torch
    from lightning.pytorch import Callback, Trainer

    from specs_lightning.data import PreferenceDataModule, RolloutDataModule
    from specs_lightning.data.sources import PromptSource
    from specs_lightning.modules import ColdStartModule, GRPOModule
    from specs_lightning.modules.step_loop import PolicyModule
    from specs_lightning.objectives import DPO
    from specs_lightning.policy.loading import PolicySettings
    from specs_lightning.policy.policy import Policy
    from specs_lightning.prompts.encoder import PromptEncoder
    from specs_lightning.rewards import Reward, RewardSum
    from specs_lightning.rollout import HFEngine, SamplingSettings, VLLMEngine, VLLMSettings
    from specs_lightning.system.memory import keep_freed_memory

    class CountOfE(Reward):
        """As the peers' benchmark: fast, and different for every completion."""

        name = "e"

        def __call__(self, prompts: Any, completions: Any) -> torch.Tensor:
            return torch.tensor([completion.text.count("e") / 10 for completion in completions])

    warnings.filterwarnings("ignore")
    if os.environ.get("SPECS_PLAIN_MALLOC") != "1":
        keep_freed_memory()  # as the command `specs` does
    torch.set_num_threads(1)
    imported = _peak_mib()
    meter = Meter()
    marks: list[tuple[float, float]] = []

    class Clock(Callback):
        def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
            marks.append((time.perf_counter(), time.process_time()))
            meter.on = len(marks) >= warmup

    model = "model" if mode == "dpo" else "model-without-end"  # whose end token, an image's, no pair may have
    settings = PolicySettings(str(folder / model), freeze_vision=tower != "trained")
    data_folder, module, engine = folder / "data", None, None
    if mode == "dpo":
        module = ColdStartModule(settings, DPO(beta=0.1, sft_weight=1.0))
        data: Any = PreferenceDataModule(str(data_folder / "ours_dpo.jsonl"), workload.pairs)
    else:
        module = GRPOModule(settings)
        engine = HFEngine() if mode == "grpo-hf" else VLLMEngine(VLLMSettings(max_model_len=1024))
        data = RolloutDataModule(
            PromptSource(str(data_folder / "ours_grpo.jsonl"), add_instruction=False),
            [CountOfE()],
            sampling=SamplingSettings(workload.completions, workload.completion_tokens),
            prompts_per_round=workload.prompts,
            steps_per_round=1,
            rounds=warmup + steps,
            engine=engine,
        )
        meter.time(type(engine), "generate", "generate")
        meter.time(type(engine), "sync", "sync")
    meter.time(PromptEncoder, "encode", "encode")
    meter.time(RewardSum, "score", "reward")
    meter.time(Policy, "token_logprobs", lambda: "forward" if torch.is_grad_enabled() else "forward_without_grad")
    meter.time(PolicyModule, "manual_backward", "backward")
    _count_work(module, meter, keep_features=tower != "frozen, run anew")
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        max_steps=warmup + steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Clock()],
    )
    prepared = Meter()
    prepared.on = True
    if mode == "dpo":  # what is done once for each pair: its encoding and the reference's log-probabilities
        prepared.time(PromptEncoder, "encode", "encode")
        prepared.time(module, "on_train_start", "reference")
    trainer.fit(module, data)
    (wall_0, cpu_0), (wall_1, cpu_1) = marks[warmup - 1], marks[-1]
    phases = {name: seconds / steps for name, seconds in meter.seconds.items()}
    cpu = (cpu_1 - cpu_0) / steps
    result = {
        "cpu_s": cpu,
        "wall_s": (wall_1 - wall_0) / steps,
        "phases": phases | {"rest": cpu - sum(phases.values())},
    }
    if mode == "dpo":
        share = workload.pairs / len(data.encoded)
        result["prepare"] = {name: seconds * share for name, seconds in prepared.seconds.items()}
    work = {name: amount / steps for name, amount in meter.work.items()}
    return result | {"peak_mib": _peak_mib() - imported, "imported_mib": imported, "work": work}


def _count_work(module: Any, meter: Meter, keep_features: bool) -> None:
    """Vision patches and tokens that the model runs, and images processed."""
    configure = module.configure_model

    def patches(_: Any, args: Any, kwargs: Any) -> None:
        meter.count("vision_patches", (args[0] if args else kwargs["hidden_states"]).shape[0])

    def tokens(_: Any, args: Any, kwargs: Any) -> None:
        rows, length = kwargs["inputs_embeds"].shape[:2]
        meter.count("tokens_decoded" if length == 1 else "tokens", rows * length)

    def configure_and_hook() -> None:
        configure()
        if not keep_features:
            module.policy.image_features = None
        for name, part in module.policy.model.named_modules():
            if name.endswith("visual"):
                part.register_forward_pre_hook(patches, with_kwargs=True)
            elif name.endswith("language_model"):
                part.register_forward_pre_hook(tokens, with_kwargs=True)
        processor = type(module.policy.processor.image_processor)
        process = processor.__call__

        def counted(self: Any, images: Any, *args: Any, **kwargs: Any) -> Any:
            meter.count("images", len(images) if isinstance(images, list) else 1)
            return process(self, images, *args, **kwargs)

        processor.__call__ = counted

    module.configure_model = configure_and_hook


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mode", choices=MODES, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--workload", type=json.loads, required=True)
    parser.add_argument("--warmup", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--tower", choices=TOWERS, default="trained")
    given = vars(parser.parse_args())
    found = measure(**given | {"workload": Workload(**given["workload"])})
    print("RESULT " + json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
