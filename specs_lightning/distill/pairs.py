"""Self-distilled preference pairs (paper section 3.1).

chosen: a sample of the seed model (zero), its answer right, its format complete, its reasoning consistent with its
answer. rejected: a sample of the base model, its answer right as well, its format corrupted. So the two differ in the
output format alone ("decoupled"). In "coupled" pairs the rejected answer is wrong, too.

Where the paper is open: candidates are drawn at temperature 1, eight a prompt; a rule stands in for the external judge
of consistency; every prompt gives at most one pair; the five corruptions are equally likely.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from specs_lightning.answer_formats import AnswerFormat, Parts, TagFormat, answer_format
from specs_lightning.data.images import preview
from specs_lightning.data.pairs import PreferencePair, write_pairs
from specs_lightning.data.set_aside import SetAside
from specs_lightning.data.sources import PromptSource, load_prompts
from specs_lightning.data.tables import DataError
from specs_lightning.distill.candidates import draw_candidates
from specs_lightning.distill.corruptions import CORRUPTIONS, corrupt
from specs_lightning.groups import Completion, Prompt
from specs_lightning.policy import PolicySettings
from specs_lightning.rewards import AccuracyReward, is_consistent
from specs_lightning.rewards.consistency import read_parts
from specs_lightning.rollout import HFEngine, RolloutEngine, SamplingSettings

PREVIEWED_PAIRS = 12


@dataclass(frozen=True)
class PairSettings:
    """What makes a pair."""

    pairing: Literal["decoupled", "coupled"] = "decoupled"
    """`decoupled`: both answers are right. `coupled`: the rejected one is wrong as well as badly formatted."""
    verify: bool = True
    """Take a chosen response only if its reasoning is consistent with its answer."""
    supplement: bool = True
    """Where no right sample of zero kept the format, write one whose reasoning and answer can be read in it again."""
    corrupt: Literal["always", "if_well_formed"] = "always"
    """`always`: every rejected response is brought into the asked format, then corrupted, so that the corruptions are
    equally frequent. `if_well_formed`: one that broke the format by itself stays as it was sampled."""
    corruptions: list[str] = field(default_factory=lambda: list(CORRUPTIONS))
    """Which corruptions are drawn from."""
    max_pairs: int | None = None
    """Stop at so many pairs."""

    def __post_init__(self) -> None:
        if unknown := set(self.corruptions) - set(CORRUPTIONS):
            raise ValueError(f"unknown corruptions {sorted(unknown)}; there are: {', '.join(CORRUPTIONS)}")
        if not self.corruptions:
            raise ValueError("corruptions is empty: name at least one")


class _Side(NamedTuple):
    """One side of a pair, and how it came to be."""

    text: str
    provenance: dict[str, Any]


def distill(
    prompts: PromptSource,
    zero: str,
    base: str,
    output: str,
    pairs: PairSettings = PairSettings(),
    sampling: SamplingSettings = SamplingSettings(),  # noqa: B008  frozen
    engine: RolloutEngine | None = None,
    seed: int = 0,
) -> Path:
    """Make preference pairs: `pairs.parquet`, with `statistics.json` and a preview beside it.

    Args:
        prompts: questions with gold answers.
        zero: the model whose samples are chosen.
        base: the model whose samples are rejected.
        output: the folder to write to. Samples drawn there before are used again.
        pairs: what makes a pair.
        sampling: how candidates are drawn.
        engine: what draws them; the embedded transformers engine if not given.
        seed: of sampling and of the draw of corruptions.

    Raises:
        DataError: not one pair could be made; the message says why.
    """
    folder = Path(output)
    set_aside = SetAside()
    questions = [p for p in load_prompts(prompts, set_aside) if _can_be_corrupted(p, set_aside)]
    engine = engine or HFEngine()
    candidates = {
        side: draw_candidates(
            PolicySettings(model=model),
            questions,
            engine,
            sampling,
            f"{side}-{seed}",
            folder / f"{side}_candidates.jsonl",
            set_aside,
            f"sampling from {side}",
        )
        for side, model in {"zero": zero, "base": base}.items()
    }
    engine.close()
    accuracy = AccuracyReward()
    made: list[PreferencePair] = []
    counts: Counter[str] = Counter(prompts=len(questions))
    dropped: Counter[str] = Counter()
    for prompt in questions:
        if pairs.max_pairs is not None and len(made) >= pairs.max_pairs:
            break
        if prompt.id not in candidates["zero"] or prompt.id not in candidates["base"]:
            dropped["prompt set aside"] += 1
            continue
        # A draw of its own for each prompt: a pair does not depend on those before it.
        rng = random.Random(f"{seed}-{prompt.id}")
        chosen = _choose(prompt, candidates["zero"][prompt.id], accuracy, pairs, rng, counts)
        rejected = _reject(prompt, candidates["base"][prompt.id], accuracy, pairs, rng, counts)
        if isinstance(chosen, str) or isinstance(rejected, str):
            dropped[chosen if isinstance(chosen, str) else str(rejected)] += 1
            continue
        provenance = {
            "chosen_model": zero,
            "rejected_model": base,
            "pairing": pairs.pairing,
            "verified": pairs.verify,
            **chosen.provenance,
            **rejected.provenance,
        }
        made.append(PreferencePair(prompt, chosen.text, rejected.text, provenance))
    accuracy.close()
    set_aside.write(folder / "set_aside.jsonl")
    if not made:
        reasons = ", ".join(f"{n} x {reason}" for reason, n in dropped.most_common())
        raise DataError(f"not one pair of {len(questions)} prompts ({reasons})\n{set_aside.summary()}")
    _write(made, counts, dropped, pairs, folder)
    return folder / "pairs.parquet"


def _write(
    made: Sequence[PreferencePair],
    counts: Counter[str],
    dropped: Counter[str],
    settings: PairSettings,
    folder: Path,
) -> None:
    """The pairs, the first of them to look at, and how many were lost on the way and why."""
    statistics = {
        **counts,
        "pairs": len(made),
        "corruptions": Counter(pair.provenance["corruption"] for pair in made),
        "dropped": dropped,
        "settings": asdict(settings),
    }
    write_pairs(made, folder / "pairs.parquet")
    (folder / "statistics.json").write_text(json.dumps(statistics, indent=1))
    _write_preview(made[:PREVIEWED_PAIRS], folder / "pairs_preview.jsonl")


def _can_be_corrupted(prompt: Prompt, set_aside: SetAside) -> bool:
    problem = None
    if prompt.answer is None:
        problem = "no gold answer to verify against"
    elif not isinstance(answer_format(prompt.answer_format), TagFormat):
        problem = f"no corruptions for the answer format: {prompt.answer_format}"
    if problem:
        set_aside.add(prompt.metadata["source_file"], prompt.metadata["source_row"], problem)
    return problem is None


def _choose(
    prompt: Prompt,
    candidates: Sequence[Completion],
    accuracy: AccuracyReward,
    settings: PairSettings,
    rng: random.Random,
    counts: Counter[str],
) -> _Side | str:
    """A right, complete and consistent response, or why there is none. One that kept the format itself comes first."""
    tags = answer_format(prompt.answer_format)
    right = [c for c in _judged(prompt, candidates, accuracy, 1.0) if c.finished]
    counts["chosen_candidates"] += len(candidates)
    counts["chosen_correct"] += len(right)
    if not right:
        return "no right sample of zero"
    complete = [(c, parts, False) for c in right if (parts := tags.read(c.text))]
    counts["chosen_format"] += len(complete)
    if not complete and settings.supplement:
        complete = [(c, parts, True) for c, parts in _readable(right, tags, prompt) if parts.reasoning]
    if not complete:
        return "no complete sample of zero"
    if settings.verify:
        complete = [entry for entry in complete if _is_consistent(prompt, entry[1])]
        counts["chosen_consistent"] += len(complete)
        if not complete:
            return "no consistent sample of zero"
    completion, parts, supplemented = rng.choice(complete)
    text = tags.write(*parts) if supplemented else completion.text
    return _Side(text, {"chosen_sample": completion.text, "chosen_supplemented": supplemented})


def _reject(
    prompt: Prompt,
    candidates: Sequence[Completion],
    accuracy: AccuracyReward,
    settings: PairSettings,
    rng: random.Random,
    counts: Counter[str],
) -> _Side | str:
    """A response of the base, its format corrupted, or why there is none."""
    tags = answer_format(prompt.answer_format)
    wanted = 1.0 if settings.pairing == "decoupled" else 0.0
    fitting = [c for c in _judged(prompt, candidates, accuracy, wanted) if c.finished]
    counts["rejected_candidates"] += len(candidates)
    counts["rejected_fitting"] += len(fitting)
    readable = _readable(fitting, tags, prompt)
    if not readable:
        return "no right sample of base" if wanted else "no wrong sample of base"
    completion, parts = rng.choice(readable)
    well_formed = tags.read(completion.text) is not None
    if not well_formed and settings.corrupt == "if_well_formed":
        text, name = completion.text, "as_sampled"
    else:
        text, name = corrupt(tags.write(*parts), tags, rng, settings.corruptions)  # type: ignore[arg-type]
    return _Side(text, {"rejected_sample": completion.text, "corruption": name})


def _readable(completions: Sequence[Completion], tags: AnswerFormat, prompt: Prompt) -> list[tuple[Completion, Parts]]:
    """The responses whose parts can be told apart and written in the asked format."""
    found = [(c, parts) for c in completions if (parts := read_parts(c.text, prompt.answer_format))]
    return [(c, parts) for c, parts in found if tags.read(tags.write(*parts))]


def _judged(
    prompt: Prompt, candidates: Sequence[Completion], accuracy: AccuracyReward, wanted: float
) -> list[Completion]:
    """The candidates of this verdict; one that could not be judged has none."""
    verdicts = accuracy([prompt] * len(candidates), candidates).tolist()
    return [candidate for candidate, verdict in zip(candidates, verdicts, strict=True) if verdict == wanted]


def _is_consistent(prompt: Prompt, parts: Parts) -> bool:
    return is_consistent(parts.reasoning, parts.answer, prompt.answer_type, prompt.choices)


def _write_preview(pairs: Sequence[PreferencePair], file: Path) -> None:
    rows = [
        {
            "prompt": pair.prompt.text,
            "images": [preview(image) for image in pair.prompt.images],
            "answer": pair.prompt.answer,
            "chosen": pair.chosen,
            "rejected": pair.rejected,
            "provenance": pair.provenance,
        }
        for pair in pairs
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
