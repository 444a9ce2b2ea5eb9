"""specs-lightning against TRL on one GPU: the same random Qwen2.5-VL, images, prompts and pairs, in turns.

    python benchmarks/gpu/compare.py [--shape Qwen2.5-VL-3B] [--device cuda] [--seconds 60]

Weights and AdamW in bfloat16, all of them trained, all activations kept; transformers samples on both sides. DPO + SFT
on 8 pairs, and GRPO at sizes from one where both have room to the largest that is asked for: what runs out of memory
says so. Each measurement is a process of its own with a time limit. One JSON line each: seconds of a step (median), its
phases, peak memory.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

WORDS = [
    "how",
    "many",
    "red",
    "blue",
    "green",
    "circle",
    "square",
    "triangle",
    "is",
    "are",
    "left",
    "after",
    "all",
    "the",
    "of",
]
WARMUP, STEPS = 1, 3


@dataclass(frozen=True)
class Work:
    """A step's."""

    kind: str
    """`dpo` or `grpo`."""
    groups: int
    """Pairs, or prompts."""
    tokens: int
    """Of a side, or of a completion."""
    completions: int = 8


SIZES = (Work("dpo", 8, 200), Work("grpo", 1, 64), Work("grpo", 4, 200), Work("grpo", 4, 1024))


def make(folder: Path, shape: str, device: str, work: Work) -> None:
    """The model, and 32 rows with images of noise, 448 pixels on a side."""
    import PIL.Image
    from step import random_policy

    from specs_lightning.plan.shapes import model_shape

    policy = random_policy(model_shape(shape), folder / "model", device)
    if work.kind == "grpo":
        policy.model.generation_config.eos_token_id = int(policy.banned_ids[0])  # never sampled: none ends early
    policy.model.generation_config.pad_token_id = policy.tokenizer.pad_token_id
    policy.model.generation_config.do_sample = True
    policy.save(folder / "saved")
    chance = random.Random(0)

    def say(words: int) -> str:
        return " ".join(chance.choice(WORDS) for _ in range(words))

    rows = []
    for i in range(32):
        PIL.Image.effect_noise((448, 448), 64 + i).convert("RGB").save(folder / f"{i}.png")
        sides = {side: say(work.tokens - chance.randint(0, 9)) for side in ("chosen", "rejected")}
        rows.append({"id": str(i), "answer": "1", "image": f"{i}.png", "prompt": say(30)} | sides)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


class Clock:
    """When steps ended, and seconds of phases after the warm-up."""

    def __init__(self, cuda: bool) -> None:
        import torch

        self.marks: list[float] = []
        self.phases: dict[str, float] = {}
        self._wait: Callable[[], Any] = torch.cuda.synchronize if cuda else lambda: None
        self._reset: Callable[[], Any] = torch.cuda.reset_peak_memory_stats if cuda else lambda: None

    def step_ended(self) -> None:
        self._wait()
        self.marks.append(time.perf_counter())
        if len(self.marks) == WARMUP:
            self._reset()

    def time(self, owner: Any, name: str, phase: str) -> None:
        method = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            self._wait()
            start = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                self._wait()
                if len(self.marks) >= WARMUP:
                    self.phases[phase] = self.phases.get(phase, 0.0) + time.perf_counter() - start

        setattr(owner, name, timed)


def ours(folder: Path, work: Work, cuda: bool, clock: Clock) -> None:
    import torch
    from lightning.pytorch import Callback, Trainer

    from specs_lightning.data import PreferenceDataModule, RolloutDataModule
    from specs_lightning.data.sources import PromptSource
    from specs_lightning.modules import ColdStartModule, GRPOModule, PolicyModule, step_loop
    from specs_lightning.objectives import DPO
    from specs_lightning.policy.loading import PolicySettings
    from specs_lightning.policy.policy import Policy
    from specs_lightning.rewards import Reward
    from specs_lightning.rollout import HFEngine, SamplingSettings

    class CountOfE(Reward):
        name = "e"

        def __call__(self, prompts: Any, completions: Any) -> torch.Tensor:
            return torch.tensor([c.text.count("e") % 7 / 7 + 0.01 * i for i, c in enumerate(completions)])

    class Marks(Callback):
        def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
            clock.step_ended()

    step_loop.check_trainable = lambda settings: None  # TRL's weights are in bfloat16, too, where little is learned
    settings = PolicySettings(str(folder / "saved"), freeze_vision=False, dtype="bfloat16" if cuda else "float32")
    if work.kind == "dpo":
        module: Any = ColdStartModule(settings, DPO(beta=0.1, sft_weight=1.0))
        data: Any = PreferenceDataModule(str(folder / "rows.jsonl"), work.groups)
    else:
        module = GRPOModule(settings)
        source = PromptSource(str(folder / "rows.jsonl"), columns={"question": "prompt"}, add_instruction=False)
        sampling = SamplingSettings(work.completions, work.tokens)
        rounds = {"prompts_per_round": work.groups, "steps_per_round": 1, "rounds": WARMUP + STEPS}
        data = RolloutDataModule(source, [CountOfE()], sampling=sampling, **rounds)
        clock.time(HFEngine, "generate", "generate")
    clock.time(Policy, "token_logprobs", "forward")
    clock.time(PolicyModule, "manual_backward", "backward")
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(
        accelerator="gpu" if cuda else "cpu",
        devices=1,
        max_epochs=1,
        max_steps=WARMUP + STEPS,
        enable_model_summary=False,
        callbacks=[Marks()],
        **quiet,
    )
    trainer.fit(module, data)


def trl(folder: Path, work: Work, cuda: bool, clock: Clock) -> None:
    import torch
    from datasets import Dataset, Image
    from transformers import TrainerCallback

    class Marks(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            clock.step_ended()

    rows = []
    for line in (folder / "rows.jsonl").read_text().splitlines():
        row = json.loads(line)
        turns: dict[str, Any] = {"prompt": [{"role": "user", "content": row["prompt"]}]}
        if work.kind == "dpo":
            turns |= {side: [{"role": "assistant", "content": row[side]}] for side in ("chosen", "rejected")}
        rows.append(turns | {"image": str(folder / row["image"])})
    data = Dataset.from_list(rows).cast_column("image", Image())
    common: dict[str, Any] = {
        "output_dir": tempfile.mkdtemp(),
        "max_steps": WARMUP + STEPS,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": not cuda,
        "bf16": cuda,
        "gradient_checkpointing": False,
        "seed": 0,
        "model_init_kwargs": {"dtype": torch.bfloat16 if cuda else torch.float32},
    }
    if work.kind == "dpo":
        from trl import DPOConfig, DPOTrainer

        losses = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 1.0], "beta": 0.1}
        settings = DPOConfig(per_device_train_batch_size=work.groups, **losses, **common)
        trainer: Any = DPOTrainer(model=str(folder / "saved"), args=settings, train_dataset=data, callbacks=[Marks()])
    else:
        from trl import GRPOConfig, GRPOTrainer

        def reward(completions: Any, **unused: Any) -> list[float]:
            return [c[0]["content"].count("e") % 7 / 7 + 0.01 * i for i, c in enumerate(completions)]

        image = json.loads((folder / "saved" / "config.json").read_text())["image_token_id"]
        exactly = {"min_new_tokens": work.tokens, "suppress_tokens": [image]}
        settings = GRPOConfig(
            per_device_train_batch_size=work.groups * work.completions,
            num_generations=work.completions,
            max_completion_length=work.tokens,
            beta=0.0,
            generation_kwargs=exactly,
            **common,
        )
        trainer = GRPOTrainer(
            model=str(folder / "saved"), reward_funcs=reward, train_dataset=data, args=settings, callbacks=[Marks()]
        )
        clock.time(trainer, "_generate_single_turn", "generate")
        clock.time(trainer, "_get_per_token_logps_and_entropies", "forward")
    clock.time(trainer.accelerator, "backward", "backward")
    trainer.train()


def measure(side: str, folder: Path, work: Work, device: str) -> dict[str, Any]:
    import torch

    warnings.filterwarnings("ignore")
    cuda = device == "cuda"
    clock, begun = Clock(cuda), time.perf_counter()
    try:
        (ours if side == "ours" else trl)(folder, work, cuda, clock)
    except torch.OutOfMemoryError:
        return {"out_of_memory": True}
    steps = [end - start for start, end in zip(clock.marks[WARMUP - 1 :], clock.marks[WARMUP:], strict=False)]
    return {
        "step_s": statistics.median(steps),
        "first_step_s": clock.marks[0] - begun,
        "phases": {name: seconds / len(steps) for name, seconds in clock.phases.items()},
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if cuda else None,
    }


def in_a_process(arguments: list[str], seconds: float) -> dict[str, Any]:
    """What this script prints after RESULT, run by itself with these arguments."""
    command = [sys.executable, __file__, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return {"not_within_s": seconds}
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    return json.loads(lines[-1].removeprefix("RESULT ")) if lines else {"failed": done.stderr.strip().splitlines()[-1:]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="Qwen2.5-VL-3B", help="a shape that `specs plan` knows, or a model folder")
    parser.add_argument("--device", default="cuda", help="cuda or cpu")
    parser.add_argument("--seconds", type=float, default=60, help="a measurement's limit")
    parser.add_argument("--sizes", type=json.loads, help="steps, as a list of {kind, groups, tokens, completions}")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    sizes = SIZES if args.sizes is None else [Work(**size) for size in args.sizes]
    if args.child:
        side, folder = args.child
        found = measure(side, Path(folder), sizes[0], args.device) if side != "make" else {}
        if side == "make":
            make(Path(folder), args.shape, args.device, sizes[0])
        print("RESULT " + json.dumps(found), flush=True)
        os._exit(0)
    for work in sizes:
        with tempfile.TemporaryDirectory() as folder:
            same = [f"--device={args.device}", f"--shape={args.shape}", f"--sizes={json.dumps([asdict(work)])}"]
            found = {
                side: in_a_process([*same, "--child", side, folder], args.seconds) for side in ("make", "ours", "trl")
            }
            for side in ("ours", "trl"):
                print(json.dumps({"side": side} | asdict(work) | found["make"] | found[side]), flush=True)
            if all("step_s" in found[side] for side in ("ours", "trl")):
                ratio = found["trl"]["step_s"] / found["ours"]["step_s"]
                print(json.dumps(asdict(work) | {"trl_over_ours": ratio}), flush=True)


if __name__ == "__main__":
    main()
