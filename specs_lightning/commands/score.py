"""`specs score`: answers that lmms-eval or VLMEvalKit recorded, judged by our rules, in the tables of `specs test`."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path

from specs_lightning.data.recorded import Recorded, answered, read_recorded
from specs_lightning.data.sources import PromptSource, load_prompts
from specs_lightning.errors import DataError
from specs_lightning.evaluation.evaluator import AnswerJudge
from specs_lightning.evaluation.outcome import EvaluationOutcome
from specs_lightning.evaluation.paired_scores import paired_differences
from specs_lightning.evaluation.scores import differences_table, scores_table
from specs_lightning.groups import Prompt
from specs_lightning.judge import Judge, JudgeSettings
from specs_lightning.prompts.set_aside import SetAside
from specs_lightning.records.answers import Answer
from specs_lightning.report.evaluation import EvaluatedModel, write_evaluation
from specs_lightning.system.files import check_writable
from specs_lightning.system.terminal import console, say

log = logging.getLogger(__name__)

MOST_OTHER_GOLDS = 0.5
"""The share of recorded golds that may be others than ours, before the questions are taken for others."""


def score(
    answers: str,
    data: PromptSource,
    base: str | None = None,
    output: str = "runs/recorded",
    judge: JudgeSettings | None = None,
) -> None:
    """Judge answers that another harness recorded, and write the tables and the page that `specs test` writes.

    Args:
        answers: the samples file of lmms-eval (`--log_samples`), or the prediction table of VLMEvalKit as TSV or CSV.
        data: the data set that was asked, with its `benchmark` if it has rules of its own.
        base: such a file of another model, to compare with prompt by prompt.
        output: the folder to write.
        judge: a language model for answers that rules cannot compare; without one, an answer in other words than the
            gold's is wrong.

    Raises:
        DataError: a file cannot be used, or its questions are not those of the data set.
    """
    folder, name = Path(output), data.benchmark or Path(data.path).stem
    check_writable(folder)
    set_aside = SetAside()
    prompts = load_prompts(data, set_aside)
    rules = AnswerJudge(None if judge is None else Judge(judge))
    try:
        models = [
            EvaluatedModel(file, {name: _judged(file, name, data, prompts, rules, set_aside)})
            for file in (answers, base)
            if file is not None
        ]
    finally:
        rules.close()
    outcome = EvaluationOutcome("score", answers, None, models[0].answers)
    outcome.write(folder, {name: prompts})
    console.print(scores_table(outcome.scores))
    apart = {name: paired_differences(models[0].answers[name], models[1].answers[name])} if base else {}
    if apart:
        console.print(differences_table(apart))
    page = folder / "score.html"
    write_evaluation(page, models, apart, {name: prompts}, {"answers": answers, "data": data.path}, set_aside)
    say("recorded answers do not say whether they were cut off: all count as finished")
    say(f"page: {page}")


def _judged(
    file: str, name: str, data: PromptSource, prompts: Sequence[Prompt], rules: AnswerJudge, set_aside: SetAside
) -> list[Answer]:
    """The answers of a file, each prompt's next to each other."""
    pairs = answered(prompts, read_recorded(Path(file), set_aside), data)
    _check_golds(file, pairs, rules)
    if without := len(prompts) - len(pairs):
        log.warning("%s has no answer to %d of the %d prompts", file, without, len(prompts))
    asked = [(prompt, text) for prompt, recorded in pairs for text in recorded.texts]
    unjudged = [Answer(name, prompt.id, text, None, True, math.nan, math.nan, math.nan) for prompt, text in asked]
    return rules.judge_again([prompt for prompt, _ in asked], unjudged)


def _check_golds(file: str, pairs: Sequence[tuple[Prompt, Recorded]], rules: AnswerJudge) -> None:
    """That the questions are the same, by their golds: those that were recorded must be right answers to ours."""
    known = [(prompt, recorded.gold) for prompt, recorded in pairs if recorded.gold is not None and prompt.answer]
    texts = [f"<answer>{gold}</answer>" for _, gold in known]
    verdicts = rules.verdicts([prompt for prompt, _ in known], texts)
    others = [(p, gold) for (p, gold), (correct, _) in zip(known, verdicts, strict=True) if correct < 1]
    if not others:
        return
    prompt, gold = others[0]
    said = f"{file}: {len(others)} of {len(known)} recorded golds are others than those of the data set"
    example = f"such as {gold[:60]!r}, where it has {str(prompt.answer)[:60]!r} (prompt {prompt.id})"
    if len(others) > MOST_OTHER_GOLDS * len(known):
        raise DataError(f"{said}, {example}: it is another data set, split or order of rows")
    log.warning("%s, %s", said, example)
