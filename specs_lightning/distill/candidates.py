"""Candidates: what each model answers to the prompts, drawn once and kept on disk, so that a stopped run goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

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

PROMPTS_AT_ONCE = 64


def draw_candidates(
    model: PolicySettings,
    prompts: Sequence[Prompt],
    engine: RolloutEngine,
    sampling: SamplingSettings,
    seed: str,
    file: Path,
    set_aside: SetAside,
    title: str,
) -> dict[str, list[Completion]]:
    """The completions of each prompt, by its id; one that cannot be encoded is set aside and has no entry.

    Those that the JSONL `file` holds already are not drawn again (`DataError` if they were drawn otherwise); it grows
    with every batch.
    """
    drawn_by = {"model": model.model, **asdict(sampling), "seed": seed}
    candidates = _read(file, drawn_by)
    # The same prompts are drawn together however often it was stopped: in other company, rounding is another.
    batches = [prompts[start : start + PROMPTS_AT_ONCE] for start in range(0, len(prompts), PROMPTS_AT_ONCE)]
    missing = [batch for batch in batches if any(prompt.id not in candidates for prompt in batch)]
    if not missing:
        return candidates
    policy = Policy(model).to("cuda" if torch.cuda.is_available() else "cpu").eval()
    encoder = PromptEncoder(policy.processor)
    engine.sync(policy)
    if not file.exists():
        append_lines(file, [{"drawn_by": drawn_by}])
    with progress_bar(title, sum(map(len, missing))) as advance:
        for batch in missing:
            encoded = encode_all(encoder, batch, set_aside)
            if all(prompt.id in candidates for prompt in encoded):
                continue
            drawn = dict(zip((prompt.id for prompt in encoded), engine.generate(encoded, sampling, seed), strict=True))
            append_lines(file, ({"prompt_id": p, "completions": [c.as_row() for c in g]} for p, g in drawn.items()))
            candidates |= drawn
            advance(len(batch))
    return candidates


@dataclass(frozen=True)
class _Line:
    """What a line of the file tells: how all of it was drawn, or the completions of a prompt."""

    drawn_by: dict[str, Any] | None = None
    prompt_id: str = ""
    completions: tuple[Completion, ...] = ()


def _read(file: Path, drawn_by: dict[str, Any]) -> dict[str, list[Completion]]:
    candidates: dict[str, list[Completion]] = {}
    for line in readable_lines(file):  # the prompts of one that a kill cut off are drawn again
        row = parse(_Line, line.content, file, DRAW_AGAIN, line.number)
        if row.drawn_by is None:
            candidates[row.prompt_id] = list(row.completions)
        elif changed := [f"{name}: {old} -> {new}" for name, old, new in changes(row.drawn_by, drawn_by)]:
            raise DataError(
                f"{file} holds completions that were drawn otherwise ({'; '.join(changed)}): "
                "write to another folder, or delete it"
            )
    return candidates
