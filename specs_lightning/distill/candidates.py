"""Candidates: what each model answers to the prompts, drawn once and kept on disk, so that a stopped run goes on.

Their texts are kept, and not their tokens: pairs are made of texts, and tokens take several times the room.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from specs_lightning.distill.waves import PROMPTS_AT_ONCE
from specs_lightning.errors import DataError
from specs_lightning.groups import Completion, Prompt, prompt_digest
from specs_lightning.policy.loading import PolicySettings
from specs_lightning.policy.model_files import model_digest, same_model
from specs_lightning.policy.policy import Policy
from specs_lightning.prompts.encoder import encode_all
from specs_lightning.prompts.set_aside import SetAside
from specs_lightning.records.lines import append_lines, readable_lines
from specs_lightning.records.record import DRAW_AGAIN, parse
from specs_lightning.rollout import RolloutEngine, SamplingSettings
from specs_lightning.settings.nested import changes
from specs_lightning.system.progress import progress_bar

log = logging.getLogger(__name__)


def draw_candidates(
    model: PolicySettings,
    prompts: Sequence[Prompt],
    engine: RolloutEngine,
    sampling: SamplingSettings,
    seed: str,
    file: Path,
    set_aside: SetAside,
    title: str,
    max_prompt_tokens: int | None = None,
) -> dict[str, list[Completion]]:
    """The completions of each prompt, by its id and without their tokens.

    A prompt that cannot be encoded, or is longer than `max_prompt_tokens` or than the engine has room for, is set aside
    and has no entry. Completions that the JSONL `file` holds already are not drawn again (`DataError` if they are of
    another model or were drawn otherwise); it grows with every batch.
    """
    drawn_by = {"model": model.model, **sampling.decisive, "seed": seed, "digest": model_digest(model.pinned)}
    if model.chat_template_kwargs:
        drawn_by["chat_template_kwargs"] = model.chat_template_kwargs
    asked = {prompt.id: prompt_digest(prompt) for prompt in prompts}
    candidates = _read(file, drawn_by, asked)
    # The same prompts are drawn together however often it was stopped: in other company, rounding is another.
    batches = [prompts[start : start + PROMPTS_AT_ONCE] for start in range(0, len(prompts), PROMPTS_AT_ONCE)]
    missing = [batch for batch in batches if any(prompt.id not in candidates for prompt in batch)]
    if not missing:
        return candidates
    policy = Policy(model).to("cuda" if torch.cuda.is_available() else "cpu").eval()
    engine.sync(policy)
    limits = [limit for limit in (max_prompt_tokens, engine.longest_prompt(sampling)) if limit is not None]
    encoder = policy.encoder(min(limits, default=None))
    if not file.exists():
        append_lines(file, [{"drawn_by": drawn_by}])
    with progress_bar(title, sum(map(len, missing))) as advance:
        for batch in missing:
            encoded = encode_all(encoder, batch, set_aside)
            if all(prompt.id in candidates for prompt in encoded):
                continue
            drawn = dict(zip((prompt.id for prompt in encoded), engine.generate(encoded, sampling, seed), strict=True))
            kept = {id: [_Candidate(c.text, c.finished, c.opened) for c in group] for id, group in drawn.items()}
            append_lines(
                file,
                ({"prompt_id": id, "asked": asked[id], "completions": [asdict(c) for c in kept[id]]} for id in kept),
            )
            candidates |= {id: [c.completion() for c in group] for id, group in kept.items()}
            advance(len(batch))
    return candidates


@dataclass(frozen=True)
class _Candidate:
    """What is kept of a completion."""

    text: str
    finished: bool
    opened: str = ""

    def completion(self) -> Completion:
        return Completion((), (), self.text, self.finished, opened=self.opened)


@dataclass(frozen=True)
class _Line:
    """What a line of the file tells: how all of it was drawn, or the completions of a prompt.

    Files from before digests know a model by its path and a prompt by its id alone.
    """

    drawn_by: dict[str, Any] | None = None
    prompt_id: str = ""
    asked: str | None = None
    completions: tuple[_Candidate, ...] = ()


def _read(file: Path, drawn_by: dict[str, Any], asked: Mapping[str, str]) -> dict[str, list[Completion]]:
    """The completions of prompts, whose digests are given by their ids; of others with the same ids there are none."""
    candidates: dict[str, list[Completion]] = {}
    by_id = 0
    for line in readable_lines(file):  # the prompts of one that a kill cut off are drawn again
        row = parse(_Line, line.content, file, DRAW_AGAIN, line.number)
        if row.drawn_by is not None:
            _check(file, row.drawn_by, drawn_by)
        elif row.prompt_id in asked and row.asked in (None, asked[row.prompt_id]):
            by_id += row.asked is None
            candidates[row.prompt_id] = [candidate.completion() for candidate in row.completions]
    if by_id:
        log.warning("%s is of an earlier version: %d prompts in it are known by their ids alone", file, by_id)
    return candidates


def _check(file: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    """That completions were drawn as they would be now; the model may lie elsewhere."""
    same = same_model(old["digest"], new["digest"]) if "digest" in old else None
    by_name = {"digest"} if same is None else {"model", "digest"}
    changed = [f"{name}: {a} -> {b}" for name, a, b in changes(old, new) if name.partition(".")[0] not in by_name]
    if same is False:
        changed.insert(0, f"model: the files of {new['model']} are not those of {old['model']} that they are from")
    if changed:
        raise DataError(
            f"{file} holds completions that were drawn otherwise ({'; '.join(changed)}): "
            "write to another folder, or delete it"
        )
    if same is None:
        log.warning("it could not be checked that the completions in %s are of the model in %s now", file, new["model"])
