"""Self-distilled preference pairs (paper section 3.1).

chosen: a sample of the seed model (zero), its answer right, its format complete, its reasoning consistent with its
answer. rejected: a sample of the base model, its answer right as well, its format corrupted. So the two differ in the
output format alone ("decoupled"). In "coupled" pairs the rejected answer is wrong, too. Not in the paper: hard
negatives, where the rejected side is a sample of zero that kept the format and is wrong, so that the two differ in
everything but the format.

Where the paper is open: candidates are drawn at temperature 1, eight a prompt; a rule stands in for the external judge
of consistency where none is configured; every prompt gives at most one pair; the five corruptions are equally likely.
On both sides reasoning is whole sentences: what introduced an answer in another form (`So the area is`) is cut off, and
a response of which nothing is left then is not used. Of the responses that may be chosen and rejected, the two make the
pair whose reasoning has most words in common.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from specs_lightning.data.sources import PromptSource, load_prompts
from specs_lightning.distill.candidates import draw_candidates
from specs_lightning.distill.pair_maker import PairMaker, PairSettings
from specs_lightning.distill.waves import PROMPTS_AT_ONCE, drawing_order, wave_size
from specs_lightning.errors import DataError
from specs_lightning.groups import Completion, Prompt
from specs_lightning.judge import record_usage
from specs_lightning.policy.loading import PolicySettings
from specs_lightning.prompts.images import preview
from specs_lightning.prompts.set_aside import SetAside
from specs_lightning.records.distillation import PAIRS_PREVIEW, STATISTICS, PairPreview
from specs_lightning.records.pairs import PreferencePair, write_pairs
from specs_lightning.records.set_aside import SET_ASIDE
from specs_lightning.rewards import AccuracyReward, Judge, JudgeSettings, RewardError
from specs_lightning.rollout import HFEngine, RolloutEngine, SamplingSettings
from specs_lightning.scoring.answer_formats import TagFormat, answer_format
from specs_lightning.system.files import check_writable
from specs_lightning.system.folder_lock import only_writer
from specs_lightning.system.progress import TITLE, progress_bar
from specs_lightning.system.terminal import pasted, say

PREVIEWED_PAIRS = 12
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
    pairs: PairSettings = PairSettings(),  # noqa: B008  frozen
    sampling: SamplingSettings = SamplingSettings(),  # noqa: B008  frozen
    engine: RolloutEngine | None = None,
    seed: int = 0,
    judge: JudgeSettings | None = None,
    candidates: str | None = None,
    max_prompt_tokens: int | None = None,
    chat_template_kwargs: dict[str, Any] | None = None,
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
        chat_template_kwargs: arguments of both models' chat template, as those of `model.policy`.

    Raises:
        DataError: not one pair could be made, or the samples that are there were drawn otherwise; the message says why.
        FolderInUse: another process is drawing samples there.
        JudgeError: the judge cannot be asked.
        BudgetSpent: the judge's budget was too small; what it has judged is kept.
    """
    folder = Path(output)
    check_writable(folder)  # before hours of sampling, like what follows
    asked = None if judge is None else Judge(judge)
    if asked is not None:
        asked.check()
    set_aside = SetAside()
    questions = [p for p in load_prompts(prompts, set_aside) if _can_be_corrupted(p, set_aside)]
    models = {"zero": zero, "base": base}
    template, place = chat_template_kwargs or {}, Path(candidates or output)
    draw = _Draw(models, template, engine or HFEngine(), sampling, seed, place, set_aside, max_prompt_tokens)
    try:
        made = _make_pairs(drawing_order(questions, seed), draw, pairs, models, seed, asked, folder)
    finally:
        draw.engine.close()
    if asked is not None:
        _check_judged(asked)
    set_aside.write_to(folder)
    if not made.pairs:
        reasons = ", ".join(f"{n} x {reason}" for reason, n in made.dropped.most_common())
        raise DataError(f"not one pair of {len(questions)} prompts ({reasons})\n{set_aside.summary()}")
    _write(made, pairs, folder)
    file = folder / "pairs.parquet"
    say(outcome(made, len(questions), len(set_aside.rows)))
    if TITLE not in os.environ:  # of a stage, its run goes on by itself
        say(trained_on_by(file))
    return file


def _check_judged(judge: Judge) -> None:
    usage = judge.usage
    if usage.unscored > MAX_UNJUDGED_SHARE * usage.questions:
        raise RewardError(
            f"the judge left {usage.unscored} of {usage.questions} questions without a verdict: the causes are in the "
            "log. Mend the judge and give the same command again; its verdicts are kept"
        )


def trained_on_by(pairs: Path) -> str:
    """Where pairs are, and the command that trains on them."""
    command = pasted("specs", "fit", "--config", "YOUR_COLD_START.yaml", "--data.train", pairs)
    return f"pairs: {pairs}\nto train on them: {command}"


@dataclass(frozen=True)
class _Draw:
    """Draws candidates; what the folder holds already is not drawn again."""

    models: dict[str, str]
    chat_template_kwargs: dict[str, Any]
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
                    PolicySettings(model=model, chat_template_kwargs=self.chat_template_kwargs),
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

    def maker(prompt: Prompt) -> PairMaker:
        return PairMaker(prompt, settings, models, seed, accuracy, asked)

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
    maker: Callable[[Prompt], PairMaker],
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


def outcome(made: _Made, questions: int, set_aside: int) -> str:
    """How many pairs there are, of how many prompts, and why the others gave none, the most frequent reason first."""
    tried = made.counts["prompts"]
    told = f"{len(made.pairs)} pairs from {tried} prompts"
    if made.dropped:
        told += f"; none from {', '.join(f'{n} ({reason})' for reason, n in made.dropped.most_common())}"
    if tried < questions:
        told += f"; {questions - tried} more prompts were not needed"
    return told + (f"; {set_aside} rows set aside, in {SET_ASIDE.name}" if set_aside else "")


def _can_be_corrupted(prompt: Prompt, set_aside: SetAside) -> bool:
    problem = None
    if prompt.answer is None:
        problem = "no gold answer to verify against"
    elif not isinstance(answer_format(prompt.answer_format), TagFormat):
        problem = f"no corruptions for the answer format: {prompt.answer_format}"
    if problem:
        set_aside.add_prompt(prompt, problem)
    return problem is None


def _preview(pair: PreferencePair) -> PairPreview:
    return PairPreview(
        prompt=pair.prompt.text,
        images=tuple(preview(image) for image in pair.prompt.images),
        answer=pair.prompt.answer,
        chosen=pair.chosen,
        rejected=pair.rejected,
        provenance=pair.provenance,
    )
