"""One pair: which responses of a prompt are chosen and rejected, and how they are written (paper section 3.1)."""

from __future__ import annotations

import logging
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from specs_lightning.groups import Completion, Prompt
from specs_lightning.judge import Judge
from specs_lightning.records.pairs import PreferencePair
from specs_lightning.rewards import AccuracyReward
from specs_lightning.rewards.consistency import check_consistency
from specs_lightning.scoring.answer_formats import Parts, answer_format, read_asked
from specs_lightning.scoring.consistency import read_parts
from specs_lightning.scoring.corruptions import CORRUPTIONS, corrupt
from specs_lightning.scoring.sentences import has_delimiter

log = logging.getLogger(__name__)


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
    match: Literal["nearest", "random"] = "nearest"
    """Which two of the responses that may be chosen and rejected. `nearest`: those whose reasoning has most words in
    common, so that little but the format tells them apart. `random`: any."""
    corruptions: list[str] = field(default_factory=lambda: list(CORRUPTIONS))
    """Which corruptions are drawn from."""
    hard_negatives: float = 0.0
    """The chance that a pair's rejected response is a hard negative: a sample of zero that kept the format and is
    wrong, as it was sampled. A prompt without one has the base's, corrupted."""
    max_pairs: int | None = None
    """Make so many pairs, and draw for no more prompts than that takes; all of the prompts if not given."""

    def __post_init__(self) -> None:
        if unknown := set(self.corruptions) - set(CORRUPTIONS):
            raise ValueError(f"unknown corruptions {sorted(unknown)}; there are: {', '.join(CORRUPTIONS)}")
        if not self.corruptions:
            raise ValueError("corruptions is empty: name at least one")
        if not 0.0 <= self.hard_negatives <= 1.0:
            raise ValueError(f"hard_negatives is a share between 0 and 1, not {self.hard_negatives}")
        if self.max_pairs is not None and self.max_pairs < 1:
            raise ValueError(f"max_pairs must be positive, not {self.max_pairs}")


_Side = tuple[str, dict[str, Any]]
"""The text of one side of a pair, and how it came to be."""


class _Candidate(NamedTuple):
    """A response that a pair may be made of."""

    sample: Completion
    parts: Parts
    supplemented: bool = False
    """Whether it is written in the asked format again."""


class PairMaker:
    """Makes the pair of one prompt, and counts what it meets on the way."""

    def __init__(
        self,
        prompt: Prompt,
        settings: PairSettings,
        models: dict[str, str],
        seed: int,
        accuracy: AccuracyReward,
        judge: Judge | None,
    ) -> None:
        self.prompt, self.settings, self.models, self.accuracy, self.judge = prompt, settings, models, accuracy, judge
        self.format = answer_format(prompt.answer_format)
        self.rng = random.Random(f"{seed}-{prompt.id}")  # of its own: a pair does not depend on those before it
        self.draw_kind = random.Random(f"hard-negative-{seed}-{prompt.id}")  # the chosen side doesn't depend on it
        self.counts: Counter[str] = Counter()

    def make(self, zero: list[Completion] | None, base: list[Completion] | None) -> PreferencePair | str:
        """The pair, or why there is none, given what each model said."""
        if zero is None or base is None:
            return "prompt set aside"
        (right, wrong), of_base = self._by_verdict(zero), self._by_verdict(base)
        self.counts["chosen_candidates"] += len(zero)
        self.counts["rejected_candidates"] += len(base)
        chosen, rejected = self._chosen(right), self._rejected(*of_base)
        negative = self._hard_negative(wrong)
        if isinstance(chosen, str):
            return chosen
        if isinstance(rejected, str) and negative is None:
            return rejected
        side, other = self._match(chosen, [] if isinstance(rejected, str) else rejected)
        if negative is None:
            assert other is not None  # there is one, or a hard negative instead
            negative = self._corrupted(other)
        provenance = {
            "chosen_model": self.models["zero"],
            "rejected_model": self.models["base"],
            "pairing": self.settings.pairing,
            "verified": self.settings.verify,
            "verifier": "rule" if self.judge is None else self.judge.settings.model,
            "chosen_sample": side.sample.text,
            "chosen_supplemented": side.supplemented,
            **negative[1],
        }
        text = self.format.write(*side.parts) if side.supplemented else side.sample.text
        return PreferencePair(self.prompt, text, negative[0], provenance)

    def _by_verdict(self, candidates: Sequence[Completion]) -> tuple[list[Completion], list[Completion]]:
        """The right and the wrong ones that the model ended itself; others, and those not judged, have no part."""
        scored = self.accuracy.score([self.prompt] * len(candidates), candidates)
        self.counts["unjudged_candidates"] += sum(cause is not None for cause in scored.causes)
        for cause in set(scored.causes) - {None}:
            log.warning("candidates of prompt %s are not judged: %s", self.prompt.id, cause)
        finished = [(c, v) for c, v in zip(candidates, scored.values_N.tolist(), strict=True) if c.finished]
        return [c for c, verdict in finished if verdict == 1.0], [c for c, verdict in finished if verdict == 0.0]

    def _chosen(self, right: Sequence[Completion]) -> list[_Candidate] | str:
        """The complete and consistent ones of the right samples, or why there is none.

        Those that kept the format themselves come before those that are written in it again.
        """
        self.counts["chosen_correct"] += len(right)
        if not right:
            return "no right sample of zero"
        kept = [completion for completion in right if self._read(completion)]
        self.counts["chosen_format"] += len(kept)
        readable = self._readable(right)
        complete = [c for c in readable if c.parts == self._read(c.sample)]
        if not complete and self.settings.supplement:
            complete = [c._replace(supplemented=True) for c in readable]
        if not complete:
            return "no complete sample of zero"
        if self.settings.verify:
            verdicts = check_consistency([(self.prompt, c.parts) for c in complete], self.judge)
            self.counts["chosen_unverifiable"] += sum(verdict.correct is None for verdict in verdicts)
            complete = [c for c, verdict in zip(complete, verdicts, strict=True) if verdict.correct]
            self.counts["chosen_consistent"] += len(complete)
        return complete or "no consistent sample of zero"

    def _rejected(self, right: Sequence[Completion], wrong: Sequence[Completion]) -> list[_Candidate] | str:
        """The base's samples that may be rejected, or why there is none."""
        wanted, fitting = ("right", right) if self.settings.pairing == "decoupled" else ("wrong", wrong)
        self.counts["rejected_fitting"] += len(fitting)
        if not fitting:
            return f"no {wanted} sample of base"
        return self._readable(fitting) or f"no {wanted} sample of base with reasoning"

    def _match(
        self, chosen: Sequence[_Candidate], rejected: Sequence[_Candidate]
    ) -> tuple[_Candidate, _Candidate | None]:
        """The two that make the pair; of those that are equally near to each other, any."""
        pairs = [(c, r) for c in chosen for r in rejected]
        if self.settings.match == "random" or not pairs:
            return self.rng.choice(chosen), self.rng.choice(rejected) if rejected else None
        distances = [word_distance(c.parts.reasoning, r.parts.reasoning) for c, r in pairs]
        nearest = min(distances)
        return self.rng.choice([pair for pair, far in zip(pairs, distances, strict=True) if far == nearest])

    def _hard_negative(self, wrong: Sequence[Completion]) -> _Side | None:
        """A wrong sample of zero that kept the format, if one is wanted here and there is one."""
        if not self.settings.hard_negatives or self.draw_kind.random() >= self.settings.hard_negatives:
            return None
        texts = [completion.text for completion in wrong if self._read(completion)]
        self.counts["hard_negative_candidates"] += len(texts)
        if not texts:
            return None
        text = self.draw_kind.choice(texts)
        how = {"rejected_model": self.models["zero"], "pairing": "hard_negative", "corruption": "as_sampled"}
        return text, {"rejected_sample": text, **how}

    def _corrupted(self, candidate: _Candidate) -> _Side:
        """A response of the base that has lost its format."""
        text, name = candidate.sample.text, "as_sampled"
        if self.settings.corrupt == "always" or self._read(candidate.sample) is not None:
            whole = self.format.write(*candidate.parts)
            text, name = corrupt(whole, self.format, self.rng, self.settings.corruptions)  # type: ignore[arg-type]
        return text, {"rejected_sample": candidate.sample.text, "corruption": name}

    def _read(self, completion: Completion) -> Parts | None:
        """The parts of a response that keeps the asked format."""
        return read_asked(completion.text, self.prompt.answer_format, completion.opened)

    def _readable(self, completions: Sequence[Completion]) -> list[_Candidate]:
        """The responses that can be written in the asked format: an answer, and reasoning in whole sentences."""
        read = ((c, read_parts(c.text, self.prompt.answer_format)) for c in completions)
        found = [_Candidate(c, parts) for c, parts in read if parts is not None]
        found = [c for c in found if c.parts.reasoning and self._is_clean(c.parts.answer)]
        return [c for c in found if self.format.read(self.format.write(*c.parts))]

    def _is_clean(self, answer: str) -> bool:
        """Whether nothing of a delimiter is left around an answer, and it is not given twice."""
        twice = re.fullmatch(r"(.+)\W+\1", answer, re.IGNORECASE) is not None and answer != self.prompt.answer
        return not twice and not has_delimiter(answer)


def word_distance(left: str, right: str) -> float:
    """The share of the words of two texts that are in one of them alone: 0 of the same words in any order, 1 of none in
    common."""
    words = [Counter(re.findall(r"\w+", text.casefold())) for text in (left, right)]
    apart, total = (words[0] - words[1]) + (words[1] - words[0]), words[0] + words[1]
    return apart.total() / max(1, total.total())
