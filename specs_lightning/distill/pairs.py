"""Self-distilled preference pairs (paper section 3.1).

chosen: a sample of the seed model (zero), its answer right, its format complete, its reasoning consistent with its
answer. rejected: a sample of the base model, its answer right as well, its format corrupted. So the two differ in the
output format alone ("decoupled"). In "coupled" pairs the rejected answer is wrong, too. Not in the paper: hard
negatives, where the rejected side is a sample of zero that kept the format and is wrong, so that the two differ in
everything but the format.

Where the paper is open: candidates are drawn at temperature 1, eight a prompt; a rule stands in for the external judge
of consistency where none is configured; every prompt gives at most one pair; the five corruptions are equally likely.
On both sides reasoning is whole sentences: what introduced an answer in another form (`So the area is`) is cut off, and
a response of which nothing is left then is not used.
"""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from specs_lightning.data.sources import PromptSource, load_prompts
from specs_lightning.distill.candidates import draw_candidates
from specs_lightning.distill.waves import PROMPTS_AT_ONCE, drawing_order, wave_size
from specs_lightning.errors import DataError
from specs_lightning.groups import Completion, Prompt
from specs_lightning.judge import record_usage
from specs_lightning.policy.loading import PolicySettings
from specs_lightning.prompts.images import preview
from specs_lightning.prompts.set_aside import SetAside
from specs_lightning.records.distillation import PAIRS_PREVIEW, STATISTICS, PairPreview
from specs_lightning.records.pairs import PreferencePair, write_pairs
from specs_lightning.rewards import AccuracyReward, Judge, JudgeSettings, RewardError
from specs_lightning.rewards.consistency import check_consistency
from specs_lightning.rollout import HFEngine, RolloutEngine, SamplingSettings
from specs_lightning.scoring.answer_formats import Parts, TagFormat, answer_format, read_asked
from specs_lightning.scoring.consistency import read_parts
from specs_lightning.scoring.corruptions import CORRUPTIONS, corrupt
from specs_lightning.scoring.sentences import has_delimiter
from specs_lightning.system.folder_lock import only_writer
from specs_lightning.system.progress import progress_bar

log = logging.getLogger(__name__)

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
MAX_UNJUDGED_SHARE = 0.5
"""Of the judge's questions: with more, the pairs would be a choice of the judge's failures."""


@dataclass
class _Made:
    """The pairs, what was counted on the way, and why prompts gave none."""

    pairs: list[PreferencePair] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)


def distill(
    prompts: PromptSource,
    zero: str,
    base: str,
    output: str,
    pairs: PairSettings = PairSettings(),
    sampling: SamplingSettings = SamplingSettings(),  # noqa: B008  frozen
    engine: RolloutEngine | None = None,
    seed: int = 0,
    judge: JudgeSettings | None = None,
    candidates: str | None = None,
    max_prompt_tokens: int | None = None,
) -> Path:
    """Make preference pairs: `pairs.parquet`, with `statistics.json` and a preview beside it.

    Args:
        prompts: questions with gold answers; they are taken in an order shuffled by the seed, from each file alike.
        zero: the model whose samples are chosen.
        base: the model whose samples are rejected.
        output: the folder to write to. Samples drawn there before are used again.
        pairs: what makes a pair.
        sampling: how candidates are drawn.
        engine: what draws them; the embedded transformers engine if not given.
        seed: of sampling and of the draw of corruptions.
        judge: a language model that decides whether reasoning and answer are consistent, and compares answers that
            rules cannot; rules alone do without one.
        candidates: the folder in which samples are kept; `output` if not given. Another `distill` with the same models,
            sampling and seed may have drawn them.
        max_prompt_tokens: longer prompts are set aside (never cut), and counted.

    Raises:
        DataError: not one pair could be made, or the samples that are there were drawn otherwise; the message says why.
        FolderInUse: another process is drawing samples there.
        JudgeError: the judge cannot be asked.
        BudgetSpent: the judge's budget was too small; what it has judged is kept.
    """
    folder = Path(output)
    asked = None if judge is None else Judge(judge)
    if asked is not None:
        asked.check()  # before hours of sampling
    set_aside = SetAside()
    questions = [p for p in load_prompts(prompts, set_aside) if _can_be_corrupted(p, set_aside)]
    models = {"zero": zero, "base": base}
    draw = _Draw(models, engine or HFEngine(), sampling, seed, Path(candidates or output), set_aside, max_prompt_tokens)
    try:
        made = _make_pairs(drawing_order(questions, seed), draw, pairs, models, seed, asked, folder)
    finally:
        draw.engine.close()
    if asked is not None and asked.usage.unscored > MAX_UNJUDGED_SHARE * asked.usage.questions:
        raise RewardError(
            f"the judge left {asked.usage.unscored} of {asked.usage.questions} questions without a verdict: the causes "
            "are in the log. Mend the judge and give the same command again; its verdicts are kept"
        )
    set_aside.write_to(folder)
    if not made.pairs:
        reasons = ", ".join(f"{n} x {reason}" for reason, n in made.dropped.most_common())
        raise DataError(f"not one pair of {len(questions)} prompts ({reasons})\n{set_aside.summary()}")
    _write(made, pairs, folder)
    return folder / "pairs.parquet"


@dataclass(frozen=True)
class _Draw:
    """Draws candidates; what the folder holds already is not drawn again."""

    models: dict[str, str]
    engine: RolloutEngine
    sampling: SamplingSettings
    seed: int
    folder: Path
    set_aside: SetAside
    max_prompt_tokens: int | None

    def __call__(self, questions: Sequence[Prompt]) -> dict[str, dict[str, list[Completion]]]:
        """What each model says to each question."""
        drawn = {}
        with only_writer(self.folder):
            for side, model in self.models.items():
                drawn[side] = draw_candidates(
                    PolicySettings(model=model),
                    questions,
                    self.engine,
                    self.sampling,
                    f"{side}-{self.seed}",
                    self.folder / f"{side}_candidates.jsonl",
                    self.set_aside,
                    f"sampling from {side}",
                    self.max_prompt_tokens,
                )
        return drawn


def _make_pairs(
    questions: Sequence[Prompt],
    draw: _Draw,
    settings: PairSettings,
    models: dict[str, str],
    seed: int,
    asked: Judge | None,
    folder: Path,
) -> _Made:
    """A pair of each question that allows one, in their order, wave by wave until there are enough."""
    made, accuracy, wanted = _Made(), AccuracyReward(judge=asked), settings.max_pairs

    def maker(prompt: Prompt) -> _PairMaker:
        return _PairMaker(prompt, settings, models, seed, accuracy, asked)

    try:
        while (done := made.counts["prompts"]) < len(questions) and len(made.pairs) != wanted:
            size = len(questions) if wanted is None else wave_size(wanted, len(made.pairs), done)
            wave = questions[done : done + size]
            _add_pairs(made, wave, draw(wave), maker, wanted, 1 if asked is None else PROMPTS_AT_ONCE)
    finally:
        accuracy.close()
        if asked is not None:
            record_usage(asked, folder)
    return made


def _add_pairs(
    made: _Made,
    wave: Sequence[Prompt],
    drawn: dict[str, dict[str, list[Completion]]],
    maker: Callable[[Prompt], _PairMaker],
    wanted: int | None,
    at_once: int,
) -> None:
    """The pairs of a wave, until there are enough; with a judge, several questions are asked `at_once`."""

    def make(prompt: Prompt) -> tuple[PreferencePair | str, Counter[str]]:
        one = maker(prompt)
        return one.make(drawn["zero"].get(prompt.id), drawn["base"].get(prompt.id)), one.counts

    with ThreadPoolExecutor(at_once) as threads, progress_bar("making pairs", len(wave)) as advance:
        batches = (wave[i : i + PROMPTS_AT_ONCE] for i in range(0, len(wave), PROMPTS_AT_ONCE))
        for pair, seen in chain.from_iterable(threads.map(make, batch) for batch in batches):
            advance(1)
            made.counts.update(seen, prompts=1)
            if isinstance(pair, str):
                made.dropped[pair] += 1
            else:
                made.pairs.append(pair)
            if len(made.pairs) == wanted:
                break


def _write(made: _Made, settings: PairSettings, folder: Path) -> None:
    """The pairs, the first of them to look at, and how many were lost on the way and why."""
    statistics = {
        **made.counts,
        "pairs": len(made.pairs),
        "pairings": Counter(pair.provenance["pairing"] for pair in made.pairs),
        "corruptions": Counter(pair.provenance["corruption"] for pair in made.pairs),
        "dropped": made.dropped,
        "settings": asdict(settings),
    }
    write_pairs(made.pairs, folder / "pairs.parquet")
    STATISTICS.write(folder, statistics)
    PAIRS_PREVIEW.write(folder, map(_preview, made.pairs[:PREVIEWED_PAIRS]))


def _can_be_corrupted(prompt: Prompt, set_aside: SetAside) -> bool:
    problem = None
    if prompt.answer is None:
        problem = "no gold answer to verify against"
    elif not isinstance(answer_format(prompt.answer_format), TagFormat):
        problem = f"no corruptions for the answer format: {prompt.answer_format}"
    if problem:
        set_aside.add_prompt(prompt, problem)
    return problem is None


class _PairMaker:
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
        self.counts: Counter[str] = Counter()

    def make(self, zero: list[Completion] | None, base: list[Completion] | None) -> PreferencePair | str:
        """The pair, or why there is none, given what each model said."""
        if zero is None or base is None:
            return "prompt set aside"
        (right, wrong), of_base = self._by_verdict(zero), self._by_verdict(base)
        self.counts["chosen_candidates"] += len(zero)
        self.counts["rejected_candidates"] += len(base)
        chosen = self._choose(right)
        rejected: _Side | str | None = None
        if self.settings.hard_negatives and self.rng.random() < self.settings.hard_negatives:
            rejected = self._hard_negative(wrong)
        if rejected is None:
            rejected = self._reject(*of_base)
        if isinstance(chosen, str):
            return chosen
        if isinstance(rejected, str):
            return rejected
        provenance = {
            "chosen_model": self.models["zero"],
            "rejected_model": self.models["base"],
            "pairing": self.settings.pairing,
            "verified": self.settings.verify,
            "verifier": "rule" if self.judge is None else self.judge.settings.model,
            **chosen[1],
            **rejected[1],
        }
        return PreferencePair(self.prompt, chosen[0], rejected[0], provenance)

    def _by_verdict(self, candidates: Sequence[Completion]) -> tuple[list[Completion], list[Completion]]:
        """The right and the wrong ones that the model ended itself; others, and those not judged, have no part."""
        scored = self.accuracy.score([self.prompt] * len(candidates), candidates)
        self.counts["unjudged_candidates"] += sum(cause is not None for cause in scored.causes)
        for cause in set(scored.causes) - {None}:
            log.warning("candidates of prompt %s are not judged: %s", self.prompt.id, cause)
        finished = [(c, v) for c, v in zip(candidates, scored.values_N.tolist(), strict=True) if c.finished]
        return [c for c, verdict in finished if verdict == 1.0], [c for c, verdict in finished if verdict == 0.0]

    def _choose(self, right: Sequence[Completion]) -> _Side | str:
        """A complete and consistent one of the right samples, or why there is none.

        One that kept the format itself comes first.
        """
        self.counts["chosen_correct"] += len(right)
        if not right:
            return "no right sample of zero"
        kept = [(c, parts) for c in right if (parts := self._read(c))]
        self.counts["chosen_format"] += len(kept)
        whole = self._readable(right)
        complete = [(c, parts, False) for c, parts in kept if (c, parts) in whole]
        if not complete and self.settings.supplement:
            complete = [(c, parts, True) for c, parts in whole]
        if not complete:
            return "no complete sample of zero"
        if self.settings.verify:
            verdicts = check_consistency([(self.prompt, parts) for _, parts, _ in complete], self.judge)
            self.counts["chosen_unverifiable"] += sum(verdict.correct is None for verdict in verdicts)
            complete = [entry for entry, verdict in zip(complete, verdicts, strict=True) if verdict.correct]
            self.counts["chosen_consistent"] += len(complete)
            if not complete:
                return "no consistent sample of zero"
        completion, parts, supplemented = self.rng.choice(complete)
        text = self.format.write(*parts) if supplemented else completion.text
        return text, {"chosen_sample": completion.text, "chosen_supplemented": supplemented}

    def _hard_negative(self, wrong: Sequence[Completion]) -> _Side | None:
        """A wrong sample of zero that kept the format, if there is one."""
        texts = [completion.text for completion in wrong if self._read(completion)]
        self.counts["hard_negative_candidates"] += len(texts)
        if not texts:
            return None
        text = self.rng.choice(texts)
        how = {"rejected_model": self.models["zero"], "pairing": "hard_negative", "corruption": "as_sampled"}
        return text, {"rejected_sample": text, **how}

    def _reject(self, right: Sequence[Completion], wrong: Sequence[Completion]) -> _Side | str:
        """A response of the base, its format corrupted, or why there is none."""
        wanted, fitting = ("right", right) if self.settings.pairing == "decoupled" else ("wrong", wrong)
        self.counts["rejected_fitting"] += len(fitting)
        readable = self._readable(fitting)
        if not readable:
            return f"no {wanted} sample of base"
        completion, parts = self.rng.choice(readable)
        text, name = completion.text, "as_sampled"
        if self.settings.corrupt == "always" or self._read(completion) is not None:
            whole = self.format.write(*parts)
            text, name = corrupt(whole, self.format, self.rng, self.settings.corruptions)  # type: ignore[arg-type]
        return text, {"rejected_sample": completion.text, "corruption": name}

    def _read(self, completion: Completion) -> Parts | None:
        """The parts of a response that keeps the asked format."""
        return read_asked(completion.text, self.prompt.answer_format, completion.opened)

    def _readable(self, completions: Sequence[Completion]) -> list[tuple[Completion, Parts]]:
        """The responses that can be written in the asked format: an answer, and reasoning in whole sentences."""
        found = [(c, parts) for c in completions if (parts := read_parts(c.text, self.prompt.answer_format))]
        found = [(c, parts) for c, parts in found if parts.reasoning and not has_delimiter(parts.answer)]
        return [(c, parts) for c, parts in found if self.format.read(self.format.write(*parts))]


def _preview(pair: PreferencePair) -> PairPreview:
    return PairPreview(
        prompt=pair.prompt.text,
        images=tuple(preview(image) for image in pair.prompt.images),
        answer=pair.prompt.answer,
        chosen=pair.chosen,
        rejected=pair.rejected,
        provenance=pair.provenance,
    )
