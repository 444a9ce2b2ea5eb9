"""Candidates: what each model answers to the prompts, drawn once and kept on disk, so that a stopped run goes on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from specs_lightning.errors import DataError
from specs_lightning.groups import Completion, Prompt
from specs_lightning.policy.loading import PolicySettings
from specs_lightning.policy.policy import Policy
from specs_lightning.prompts.encoder import PromptEncoder, try_encode
from specs_lightning.prompts.set_aside import SetAside
from specs_lightning.rollout import RolloutEngine, SamplingSettings
from specs_lightning.system.files import write_whole
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
    """The completions of each prompt, by its id; those that `file` holds already are not drawn again.

    Args:
        model: what answers.
        prompts: the questions; one that cannot be encoded is set aside and has no entry.
        engine: what draws.
        sampling: how.
        seed: of the draw.
        file: a JSONL file, added to after every batch.
        set_aside: receives what cannot be used.
        title: what the progress bar says.

    Raises:
        DataError: `file` holds what was drawn otherwise.
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
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        write_whole(file, json.dumps({"drawn_by": drawn_by}) + "\n")
    with progress_bar(title, sum(map(len, missing))) as advance, file.open("a") as out:
        if _is_cut_off(file):
            out.write("\n")
        for batch in missing:
            encoded = [e for e in (try_encode(encoder, prompt, set_aside) for prompt in batch) if e is not None]
            if all(prompt.id in candidates for prompt in encoded):
                continue
            for prompt, group in zip(encoded, engine.generate(encoded, sampling, seed), strict=True):
                candidates[prompt.id] = group
                out.write(json.dumps({"prompt_id": prompt.id, "completions": [_row(c) for c in group]}) + "\n")
            out.flush()
            advance(len(batch))
    return candidates


def _row(completion: Completion) -> dict[str, object]:
    return {name: getattr(completion, name) for name in Completion.__dataclass_fields__}


def _is_cut_off(file: Path) -> bool:
    """Whether a kill left the last line without its end."""
    with file.open("rb") as opened:
        size = opened.seek(0, 2)
        opened.seek(max(0, size - 1))
        return opened.read(1) not in (b"", b"\n")


def _read(file: Path, drawn_by: dict[str, object]) -> dict[str, list[Completion]]:
    candidates: dict[str, list[Completion]] = {}
    for line in file.read_text().splitlines() if file.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:  # the line that a kill cut off: its prompts are drawn again
            continue
        if "drawn_by" in row:
            _check_same(row["drawn_by"], drawn_by, file)
            continue
        candidates[row["prompt_id"]] = [
            Completion(**{**saved, "token_ids": tuple(saved["token_ids"]), "logprobs": tuple(saved["logprobs"])})
            for saved in row["completions"]
        ]
    return candidates


def _check_same(before: dict[str, Any], now: dict[str, Any], file: Path) -> None:
    if changed := [f"{name}: {before[name]} -> {value}" for name, value in now.items() if before[name] != value]:
        raise DataError(
            f"{file} holds completions that were drawn otherwise ({'; '.join(changed)}): "
            "write to another folder, or delete it"
        )
