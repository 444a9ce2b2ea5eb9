"""What both DataModules share: prompts encoded by the policy's processor, and evaluation sets."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule

from specs_lightning import __version__
from specs_lightning.data.sources import PromptSource, load_prompts
from specs_lightning.data.tables import DataError
from specs_lightning.evaluation.answer_cache import KeptAnswers, content_digest
from specs_lightning.evaluation.evaluator import Evaluator
from specs_lightning.groups import EncodedPrompt, Prompt
from specs_lightning.judge import Judge, JudgeSettings, record_usage
from specs_lightning.policy.policy import Policy
from specs_lightning.prompts.encoder import PromptEncoder, encode_all
from specs_lightning.prompts.set_aside import SetAside
from specs_lightning.records.answers import Answer
from specs_lightning.rollout import HFEngine, RolloutEngine, SamplingSettings
from specs_lightning.system.progress import console
from specs_lightning.system.ranks import gather, rank, share, world_size


class PolicyDataModule(LightningDataModule):
    """Data for a `PolicyModule`.

    Args:
        evaluation: the sets that `validate`, `test` and `predict` go through, by name.
        evaluation_sampling: how their answers are drawn.
        evaluation_batch: how many of their prompts are answered at once.
        evaluation_with_choice: also measure each answer's entropy and branching factor, by a forward pass more.
        engine: what draws them; the embedded transformers engine if not given.
        max_prompt_tokens: longer prompts are set aside (never cut), and counted.
        seed: of all sampling and shuffling.
        image_memory_gib: what processed images may take (24 bytes a pixel); others are processed again when needed.
        judge: a language model for answers that rules cannot compare; without one, other words are wrong.
    """

    def __init__(
        self,
        evaluation: dict[str, PromptSource] | None,
        evaluation_sampling: SamplingSettings,
        evaluation_batch: int,
        evaluation_with_choice: bool,
        engine: RolloutEngine | None,
        max_prompt_tokens: int | None,
        seed: int,
        image_memory_gib: float,
        judge: JudgeSettings | None,
    ) -> None:
        super().__init__()
        self.evaluation = evaluation or {}
        self.evaluation_sampling = evaluation_sampling
        self.evaluation_batch = evaluation_batch
        self.evaluation_with_choice = evaluation_with_choice
        self.engine = engine or HFEngine()
        self.max_prompt_tokens = max_prompt_tokens
        self.seed = seed
        self.image_memory_gib = image_memory_gib
        self.judge = None if judge is None else Judge(judge)
        self.set_aside = SetAside()
        self.evaluation_prompts: dict[str, list[Prompt]] = {}
        """By set, once they are loaded."""
        self.left: dict[str, int] = {}
        """How many prompts of each set are left to be answered."""
        self.kept: KeptAnswers | None = None
        """What earlier starts of this evaluation drew."""

    @property
    def module(self) -> Any:
        """The `PolicyModule` that trains on it."""
        assert self.trainer is not None  # Lightning attaches it before any hook
        return self.trainer.lightning_module

    @property
    def policy(self) -> Policy:
        return self.module.policy

    @cached_property
    def encoder(self) -> PromptEncoder:
        return PromptEncoder(self.policy.processor, self.max_prompt_tokens, self.image_memory_gib)

    @property
    def evaluation_names(self) -> list[str]:
        return list(self.evaluation)

    def evaluator(self) -> Evaluator:
        return Evaluator(self.engine, self.evaluation_sampling, self.seed, self.evaluation_with_choice, self.judge)

    def setup(self, stage: str) -> None:
        if self.judge is not None:
            self.judge.check()  # before hours of sampling
        if stage != "fit":
            if not self.evaluation:
                raise DataError(f"{stage} needs evaluation sets: give data.init_args.evaluation, names to sources")
            self.evaluation_prompts = {
                name: load_prompts(source, self.set_aside) for name, source in self.evaluation.items()
            }

    # ------------------------------------------------------------------ validate, test and predict

    def _evaluation_loaders(self) -> list[EvaluationLoader]:
        """Of the prompts that were not answered before."""
        sets = self.evaluation_prompts
        missing = {name: [p for p in prompts if self._found(name, p) is None] for name, prompts in sets.items()}
        encoded = {name: encode_all(self.encoder, prompts, self.set_aside) for name, prompts in missing.items()}
        for name, prompts in encoded.items():
            if not prompts and len(missing[name]) == len(sets[name]):
                raise DataError(f"no prompt of the set {name} can be used: {self.set_aside.summary()}")
        self.left = {name: len(prompts) for name, prompts in encoded.items()}
        total, left = sum(map(len, sets.values())), sum(map(len, missing.values()))
        if left < total and rank() == 0:
            console.print(f"{total - left} of {total} prompts were answered before; {left} are left")
        return [EvaluationLoader(prompts, self.evaluation_batch) for prompts in encoded.values()]

    def _resuming_loaders(self) -> list[EvaluationLoader]:
        drawn_by = gather(self._drawn_by() if rank() == 0 else {})[0]
        self.kept = KeptAnswers(Path(self.module.trainer.default_root_dir) / "answers", drawn_by)
        self.kept.load()
        return self._evaluation_loaders()

    def _drawn_by(self) -> dict[str, Any]:
        """All that the answers to evaluation prompts depend on, besides these."""
        policy, trainer = self.policy, self.module.trainer
        place = Path(policy.source)
        settings = asdict(policy.settings)
        return {
            "model": content_digest(place) if place.is_dir() else f"{place}@{policy.model.config._commit_hash}",
            "checkpoint": content_digest(Path(trainer.ckpt_path)) if trainer.ckpt_path else None,
            "policy": {name: settings[name] for name in ("dtype", "attention", "lora")},
            "precision": trainer.precision,
            "evaluation_sampling": asdict(self.evaluation_sampling),
            "with_choice": self.evaluation_with_choice,
            "seed": self.seed,
            "engine": self.engine.decisive,
            "version": __version__,
        }

    def _found(self, name: str, prompt: Prompt) -> list[Answer] | None:
        return None if self.kept is None else self.kept.find(name, prompt)

    def answers_from_before(self, name: str) -> tuple[list[Prompt], list[Answer]]:
        """This process's share of what earlier starts drew of a set, with the question to each."""
        found = [(prompt, group) for prompt in self.evaluation_prompts[name] if (group := self._found(name, prompt))]
        each = [(prompt, answer) for prompt, group in share(found) for answer in group]
        return [prompt for prompt, _ in each], [answer for _, answer in each]

    def val_dataloader(self) -> list[EvaluationLoader]:
        # While training, evaluation belongs to the callbacks, each with its own sets and rhythm.
        return self._resuming_loaders() if self.module.trainer.state.fn == "validate" else []

    def test_dataloader(self) -> list[EvaluationLoader]:
        return self._resuming_loaders()

    def predict_dataloader(self) -> list[EvaluationLoader]:
        self.kept = None  # Lightning hands on what is drawn: all of it
        return self._evaluation_loaders()

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch  # the step loop and the engines move what they use, when they use it

    def teardown(self, stage: str) -> None:
        if self.set_aside.rows:
            trainer = self.module.trainer
            if trainer.is_global_zero:
                console.print(self.set_aside.summary())
                self.set_aside.write(Path(trainer.default_root_dir) / "set_aside.jsonl")
        if self.judge is not None:
            record_usage(self.judge, Path(self.module.trainer.default_root_dir))
            self.judge.close()
        self.engine.close()


class EvaluationLoader:
    """A set in batches. Each process gets its share, in as many batches as the others: the last may be empty, and of
    an empty set the only one.

    No `DataLoader`, which Lightning would have processes fill up with prompts that were answered already.
    """

    def __init__(self, prompts: Sequence[EncodedPrompt], batch_size: int) -> None:
        self.mine, self.batch_size = share(prompts), batch_size
        largest = -(-len(prompts) // world_size())
        self.batches = max(1, -(-largest // batch_size))  # Lightning would leave out what follows a test without any

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[EncodedPrompt]]:
        for number in range(self.batches):
            yield list(self.mine[number * self.batch_size : (number + 1) * self.batch_size])


def digest(ids: Iterable[str]) -> str:
    """Tells one list of rows from another, by their ids and order."""
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()[:16]


def shuffled(size: int, seed: int, epoch: int) -> list[int]:
    """A permutation that depends on the seed and the epoch alone."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(size, generator=generator).tolist()
