"""What both DataModules share: prompts encoded by the policy's processor, and evaluation sets."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from specs_lightning import __version__
from specs_lightning.data.sources import PromptSource, load_prompts
from specs_lightning.errors import DataError, check_positive
from specs_lightning.evaluation.answer_cache import AnswerCache
from specs_lightning.evaluation.evaluator import Evaluator
from specs_lightning.evaluation.sets import PROMPTS_AT_ONCE, EvaluationBatches, EvaluationSets
from specs_lightning.groups import Prompt
from specs_lightning.judge import Judge, JudgeSettings, record_usage
from specs_lightning.policy.model_files import model_digest
from specs_lightning.policy.policy import Policy
from specs_lightning.prompts.encoder import PromptEncoder
from specs_lightning.prompts.set_aside import SetAside
from specs_lightning.rollout import HFEngine, RolloutEngine, SamplingSettings
from specs_lightning.rollout.engine import stop_ids
from specs_lightning.system.digests import content_digest
from specs_lightning.system.ranks import gather, gather_shares, rank, share, world_size
from specs_lightning.system.terminal import say

log = logging.getLogger(__name__)
Item = TypeVar("Item")


class Learner(Protocol):
    """What data knows of the module that trains on it (`modules.PolicyModule`)."""

    policy: Policy
    steps: int
    """Batches that were trained on."""
    needs_old_logprobs: bool
    """Whether steps after a round's first need the policy's own log-probabilities as they were at its start."""
    completions_per_pair: int
    """How many completions of a preference pair its loss takes: the chosen one, or both."""

    @property
    def micro_batch_tokens(self) -> int:
        """How many tokens, padding included, one forward pass takes."""

    def precision(self) -> AbstractContextManager[Any]:
        """The numeric precision of its steps, for forward passes outside of them."""


class PolicyDataModule(LightningDataModule):
    """Data for a `PolicyModule`.

    Args:
        max_prompt_tokens: longer prompts are set aside (never cut), and counted; also those of evaluation sets, here
            and in callbacks.
        engine: samples the completions; the embedded transformers engine if not given.
        evaluation: the sets that `validate`, `test` and `predict` go through, by name.
        evaluation_sampling: how their answers are drawn.
        evaluation_batch: how many of their prompts are answered at once.
        evaluation_with_choice: also measure each answer's entropy and branching factor, by a forward pass more.
        seed: of sampling and shuffling.
        image_memory_gib: what processed images may take (24 bytes a pixel); others are processed again when needed.
        judge: a language model for answers that rules cannot compare, in training and evaluation; without one, an
            answer in other words than the gold's is wrong. Rewards may have judges of their own.
    """

    def __init__(
        self,
        max_prompt_tokens: int | None = None,
        engine: RolloutEngine | None = None,
        evaluation: dict[str, PromptSource] | None = None,
        evaluation_sampling: SamplingSettings = SamplingSettings(completions_per_prompt=1),  # noqa: B008  frozen
        evaluation_batch: int = PROMPTS_AT_ONCE,
        evaluation_with_choice: bool = False,
        seed: int = 0,
        image_memory_gib: float = 0.25,
        judge: JudgeSettings | None = None,
    ) -> None:
        super().__init__()
        check_positive(max_prompt_tokens=max_prompt_tokens, evaluation_batch=evaluation_batch)
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
        self.evaluation_sets: EvaluationSets | None = None
        """Those prompts with their answers, while they are asked and after."""

    @property
    def steps_per_epoch(self) -> int:
        """How many optimizer steps an epoch has."""
        raise DataError(f"{type(self).__name__} has nothing to train on")

    def idle_note(self, processes: int) -> str | None:
        """What to say before a training whose steps are too small for so many processes."""
        return None

    @property
    def attached_trainer(self) -> Trainer:
        assert self.trainer is not None  # Lightning attaches it before any hook
        return self.trainer

    @property
    def module(self) -> Learner:
        return cast(Learner, self.attached_trainer.lightning_module)

    @property
    def policy(self) -> Policy:
        return self.module.policy

    @cached_property
    def encoder(self) -> PromptEncoder:
        return self.policy.encoder(self.max_prompt_tokens, self.image_memory_gib, stop_ids(self.policy))

    def setup(self, stage: str) -> None:
        if self.judge is not None:
            self.judge.check()  # before hours of sampling
        if stage == "fit" and rank() == 0 and (note := self.idle_note(world_size())):
            log.warning(note)
        if stage != "fit":
            if not self.evaluation:
                raise DataError(
                    f"{TrainerFn(stage).value} needs evaluation sets: give data.evaluation, sources by name, as in "
                    f"--data.evaluation '{{id: {{path: questions.jsonl}}}}'"
                )
            sets = self.evaluation.items()
            self.evaluation_prompts = {name: load_prompts(source, self.set_aside) for name, source in sets}

    # ------------------------------------------------------------------ validate, test and predict

    def _ask_anew(self) -> list[EvaluationBatches]:
        """Batches of the prompts that earlier starts did not answer."""
        cache_key = gather(self._cache_key() if rank() == 0 else {})[0]
        cache = AnswerCache(Path(self.attached_trainer.default_root_dir) / "answers", cache_key)
        cache.load()
        evaluator = Evaluator(self.engine, self.evaluation_sampling, self.seed, self.evaluation_with_choice, self.judge)
        prompts, at_once = self.evaluation_prompts, self.evaluation_batch
        sets = EvaluationSets(prompts, evaluator, self.encoder, self.set_aside, at_once, cache)
        if sets.answered_before and rank() == 0:
            total, left = sum(map(len, sets.prompts.values())), sum(map(len, sets.encoded.values()))
            say(f"{sets.answered_before} of {total} prompts were answered before; {left} are left")
        self.evaluation_sets = sets
        return [sets.batches(name) for name in sets.prompts]

    def _cache_key(self) -> dict[str, Any]:
        """All that the answers to evaluation prompts depend on, besides these."""
        policy, trainer = self.policy, self.attached_trainer
        settings, template = asdict(policy.settings), policy.settings.chat_template_kwargs
        return {
            "model": model_digest(policy.settings.pinned),
            "checkpoint": content_digest(Path(trainer.ckpt_path)) if trainer.ckpt_path else None,
            "policy": {name: settings[name] for name in ("dtype", "attention", "lora")},
            **({"chat_template_kwargs": template} if template else {}),
            "precision": trainer.precision,
            "evaluation_sampling": self.evaluation_sampling.decisive,
            "with_choice": self.evaluation_with_choice,
            "seed": self.seed,
            "engine": self.engine.decisive,
            "version": __version__,
        }

    def val_dataloader(self) -> list[EvaluationBatches]:
        # While training, evaluation belongs to the callbacks, each with its own sets and rhythm.
        return self._ask_anew() if self.attached_trainer.state.fn == "validate" else []

    def test_dataloader(self) -> list[EvaluationBatches]:
        return self._ask_anew()

    def predict_dataloader(self) -> list[EvaluationBatches]:
        return self._ask_anew()

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch  # the step loop and the engines move what they use, when they use it

    def teardown(self, stage: str) -> None:
        folder = Path(self.attached_trainer.default_root_dir)
        if self.set_aside.rows and self.attached_trainer.is_global_zero:
            say(self.set_aside.summary())
            self.set_aside.write_to(folder)
        if self.judge is not None:
            record_usage(self.judge, folder)
            self.judge.close()
        self.engine.close()


class EvaluationDataModule(PolicyDataModule):
    """Evaluation sets alone, for `specs test` of a model that is not trained.

    Args:
        evaluation: the sets, by name.
        **kwargs: those of every `PolicyDataModule`.
    """

    def __init__(self, evaluation: dict[str, PromptSource], **kwargs: Any) -> None:
        super().__init__(evaluation=evaluation, **kwargs)


def rows_digest(rows: Sequence[Item], content: Callable[[Item], str]) -> str:
    """Tells one list of rows from another by the content and order of all. Processes share the work; all must ask."""
    with ThreadPoolExecutor(max_workers=8) as threads:  # images may have to be read
        return _digest(gather_shares(list(threads.map(content, share(rows)))))


def check_rows(state: Mapping[str, Any], kind: str, digest: str, ids: Iterable[str], path: str) -> None:
    """Whether a checkpoint is of the same rows, of that kind; `digest` is that of their contents.

    Raises:
        DataError: it is of others.
    """
    same = state.get("content") == digest
    if "content" not in state:  # a checkpoint that knows no more of them than their ids
        same = state[kind] == _digest(ids)
        log.warning(
            "the checkpoint is of an earlier version, so it could not be checked that the %s of %s have the texts and "
            "images that it was trained on: their ids %s",
            kind,
            path,
            "are the same" if same else "differ",
        )
    if not same:
        raise DataError(
            f"{path} has other {kind} than when the checkpoint was saved (texts, images and answers count): give it "
            "those, or start a new training"
        )


def _digest(marks: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(marks).encode()).hexdigest()[:16]


def shuffled(size: int, seed: int, epoch: int) -> list[int]:
    """A permutation that depends on the seed and the epoch alone."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(size, generator=generator).tolist()
