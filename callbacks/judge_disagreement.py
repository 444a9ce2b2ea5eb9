"""Where do two judges of the same answers disagree? A rule and an LLM, two LLMs, a strict and a lenient reader."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from specs_lightning.callbacks import EvaluationCallback, Measured
from specs_lightning.data import PromptSource
from specs_lightning.evaluation import Answered
from specs_lightning.modules import PolicyModule
from specs_lightning.rewards import Reward


class JudgeDisagreement(EvaluationCallback):
    """Has two rewards judge the same answers, and keeps those on which they disagree, to be read.

    Logs, as `judges/SET/…`, each judge's mean score, and the shares of answers that `agree`, that one alone takes for
    good (`first_only`, `second_only`), and that one of them could not judge (`unjudged`; they have no part in the
    others). A gap that widens in training is one judge being gamed. The answers are in `judge_disagreements.jsonl`
    beside the training's metrics (with several ranks, those of the first).

    Args:
        sets: the questions, by the name of their set.
        first: a reward; good is a score of at least `good_from`.
        second: another.
        good_from: the score from which on an answer is good.
        settings: `every_n_steps`, `sampling`, `engine` and `batch_size`, as every `EvaluationCallback` has them.
    """

    def __init__(
        self,
        sets: dict[str, PromptSource],
        first: Reward,
        second: Reward,
        good_from: float = 0.5,
        **settings: Any,
    ) -> None:
        super().__init__("judges", sets, **settings)
        self.judges = {"first": first, "second": second}
        self.good_from = good_from

    def begin(self, trainer: Trainer, pl_module: PolicyModule) -> None:
        self.file = Path(trainer.default_root_dir) / "judge_disagreements.jsonl" if trainer.is_global_zero else None

    def measure(self, answered: dict[str, list[Answered]]) -> Mapping[str, Measured]:
        figures: dict[str, Measured] = {}
        for name, of_set in answered.items():
            prompts, completions = [one.prompt for one in of_set], [one.completion for one in of_set]
            scores = {who: judge(prompts, completions).tolist() for who, judge in self.judges.items()}
            verdicts = [self._verdict(*pair) for pair in zip(*scores.values(), strict=True)]
            known = [verdict for verdict in verdicts if verdict != "unjudged"]
            figures |= {f"{name}/{who}": values for who, values in scores.items()}
            for verdict in ("agree", "first_only", "second_only"):
                figures[f"{name}/{verdict}"] = [float(one == verdict) for one in known]
            figures[f"{name}/unjudged"] = [float(one == "unjudged") for one in verdicts]
            self._keep(name, of_set, scores, verdicts)
        return figures

    def teardown(self, trainer: Trainer, pl_module: PolicyModule, stage: str) -> None:
        super().teardown(trainer, pl_module, stage)
        for judge in self.judges.values():
            judge.close()

    def _verdict(self, first: float, second: float) -> str:
        if math.isnan(first) or math.isnan(second):
            return "unjudged"
        good = (first >= self.good_from, second >= self.good_from)
        return {(True, False): "first_only", (False, True): "second_only"}.get(good, "agree")

    def _keep(self, name: str, answered: list[Answered], scores: dict[str, list[float]], verdicts: list[str]) -> None:
        if self.file is None:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a") as out:
            for i, (prompt, completion, _) in enumerate(answered):
                if verdicts[i] not in ("first_only", "second_only"):
                    continue
                row = {"step": self.measured_at, "set": name, "prompt_id": prompt.id, "prompt": prompt.text}
                row |= {"answer": prompt.answer, "text": completion.text, "verdict": verdicts[i]}
                out.write(json.dumps(row | {who: values[i] for who, values in scores.items()}) + "\n")
