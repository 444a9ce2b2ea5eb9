"""Candidates: what each model answers to the prompts, drawn once and kept on disk, so that a stopped run goes on.

Their texts are kept, and not their tokens: pairs are made of texts, and tokens take several times the room.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from specs_lightning.distill.waves import PROMPTS_AT_ONCE
from specs_lightning.errors import DataError
from specs_lightning.groups import Completion, Prompt
from specs_lightning.policy.loading import PolicySettings
from specs_lightning.policy.policy import Policy
from specs_lightning.prompts.encoder import PromptEncoder, encode_all
from specs_lightning.prompts.set_aside import SetAside
from specs_lightning.records.lines import append_lines, readable_lines
from specs_lightning.records.record import DRAW_AGAIN, parse
from specs_lightning.rollout import RolloutEngine, SamplingSettings
from specs_lightning.settings.nested import changes
from specs_lightning.system.progress import progress_bar


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
    and has no entry. Completions that the JSONL `file` holds already are not drawn again (`DataError` if they were
    drawn otherwise); it grows with every batch.
    """
    drawn_by = {"model": model.model, **asdict(sampling), "seed": seed}
    candidates = _read(file, drawn_by, {prompt.id for prompt in prompts})
    # The same prompts are drawn together however often it was stopped: in other company, rounding is another.
    batches = [prompts[start : start + PROMPTS_AT_ONCE] for start in range(0, len(prompts), PROMPTS_AT_ONCE)]
    missing = [batch for batch in batches if any(prompt.id not in candidates for prompt in batch)]
    if not missing:
        return candidates
    policy = Policy(model).to("cuda" if torch.cuda.is_available() else "cpu").eval()
    engine.sync(policy)
    limits = [limit for limit in (max_prompt_tokens, engine.longest_prompt(sampling)) if limit is not None]
    encoder = PromptEncoder(policy.processor, min(limits, default=None))
    if not file.exists():
        append_lines(file, [{"drawn_by": drawn_by}])
    with progress_bar(title, sum(map(len, missing))) as advance:
        for batch in missing:
            encoded = encode_all(encoder, batch, set_aside)
            if all(prompt.id in candidates for prompt in encoded):
                continue
            drawn = dict(zip((prompt.id for prompt in encoded), engine.generate(encoded, sampling, seed), strict=True))
            kept = {id: [_Candidate(c.text, c.finished, c.opened) for c in group] for id, group in drawn.items()}
            append_lines(file, ({"prompt_id": id, "completions": [asdict(c) for c in kept[id]]} for id in kept))
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
    """What a line of the file tells: how all of it was drawn, or the completions of a prompt."""

    drawn_by: dict[str, Any] | None = None
    prompt_id: str = ""
    completions: tuple[_Candidate, ...] = ()


def _read(file: Path, drawn_by: dict[str, Any], ids: Collection[str]) -> dict[str, list[Completion]]:
    """The completions of the prompts of these ids."""
    candidates: dict[str, list[Completion]] = {}
    for line in readable_lines(file):  # the prompts of one that a kill cut off are drawn again
        row = parse(_Line, line.content, file, DRAW_AGAIN, line.number)
        if row.drawn_by is None:
            if row.prompt_id in ids:
                candidates[row.prompt_id] = [candidate.completion() for candidate in row.completions]
        elif changed := [f"{name}: {old} -> {new}" for name, old, new in changes(row.drawn_by, drawn_by)]:
            raise DataError(
                f"{file} holds completions that were drawn otherwise ({'; '.join(changed)}): "
                "write to another folder, or delete it"
            )
    return candidates
