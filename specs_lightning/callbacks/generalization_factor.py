"""Measures generalisation while a policy trains: before the first step, every n steps, and at the end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Trainer

from specs_lightning.callbacks.evaluation import EvaluationCallback, Measured
from specs_lightning.data.sources import PromptSource
from specs_lightning.errors import SettingsError
from specs_lightning.evaluation.answer_metrics import (
    EXPLORATION,
    OF_THE_CHOICE,
    Exploration,
    exploration_metrics,
    rate_metrics,
)
from specs_lightning.evaluation.evaluator import Answered
from specs_lightning.evaluation.sets import PROMPTS_AT_ONCE
from specs_lightning.metrics import GainKind, GeneralizationFactor
from specs_lightning.modules import PolicyModule
from specs_lightning.records.answers import Answer, read_answers
from specs_lightning.rollout import RolloutEngine, SamplingSettings
from specs_lightning.statistics.set_kinds import kind_weights
from specs_lightning.system.ranks import share


class GeneralizationFactorCallback(EvaluationCallback):
    """Logs Γ and both gains with their 95 % intervals, and each set's rates, as `gf/…`.

    Of sets with a kind, such as `formats/boxed`, it also logs `gf/generalization_factor/formats` and
    `gf/gain_ood/formats`.

    `EarlyStopping` and `ModelCheckpoint` may monitor any of them, such as `gf/generalization_factor` (mode `max`).

    Args:
        in_distribution: held-out prompts like those that are trained on.
        out_of_distribution: sets that ask otherwise, by name; one of a kind as `KIND/NAME`, such as `formats/boxed`.
        every_n_steps: how often to measure; 0 for the start and the end alone.
        measure: what counts as a success: `solved` (right and in the asked format), `correct` (right in whatever
            form) or `format_kept`.
        weights: α, of the sets out of distribution; kinds alike, and the sets within each, if not given.
        beta: above 1 it weighs the gain out of distribution more.
        gain: what a gain is: the difference to the baseline, relative to it, or the raw score.
        baseline: answers of the base model, as an evaluation writes them; the policy's own before the first step if
            not given. A run that starts from a trained model needs it.
        exploration: what else to log of each set: `pass_at_k` (k the powers of two up to
            `sampling.completions_per_prompt`), `stuck_rate` (which needs two of them), `entropy` and
            `rollout_branching_factor` (which take a forward pass more).
        sampling: how answers are drawn.
        engine: what draws them; the data module's if not given.
        batch_size: prompts answered at once.
    """

    def __init__(
        self,
        in_distribution: PromptSource,
        out_of_distribution: dict[str, PromptSource],
        every_n_steps: int = 50,
        measure: Literal["solved", "correct", "format_kept"] = "solved",
        weights: dict[str, float] | None = None,
        beta: float = 2.0,
        gain: GainKind = "difference",
        baseline: str | None = None,
        exploration: list[Exploration] | None = None,
        sampling: SamplingSettings = SamplingSettings(completions_per_prompt=1),  # noqa: B008  frozen
        engine: RolloutEngine | None = None,
        batch_size: int = PROMPTS_AT_ONCE,
    ) -> None:
        wanted = exploration or []
        if unknown := set(wanted) - set(EXPLORATION):
            raise ValueError(f"exploration names {', '.join(sorted(unknown))}; there are: {', '.join(EXPLORATION)}")
        if "stuck_rate" in wanted and sampling.completions_per_prompt < 2:
            raise ValueError(
                "stuck_rate compares answers to a prompt: sampling.completions_per_prompt must be 2 or more"
            )
        if "id" in out_of_distribution:
            raise ValueError("`id` is the name of the set in distribution: give the other set another name")
        if weights is not None and set(weights) != set(out_of_distribution):
            raise ValueError(f"weights name {sorted(weights)}, the sets are {sorted(out_of_distribution)}")
        sets = {"id": in_distribution, **out_of_distribution}
        with_choice = any(name in OF_THE_CHOICE for name in wanted)
        super().__init__("gf", sets, every_n_steps, sampling, engine, batch_size, with_choice)
        self.success, self.exploration = measure, wanted
        self.baseline_file = baseline
        self.metric = GeneralizationFactor(weights or kind_weights(out_of_distribution), "id", beta, gain)

    def begin(self, trainer: Trainer, pl_module: PolicyModule) -> None:
        self.metric.to(pl_module.device if trainer.world_size > 1 else "cpu")  # where ranks exchange what they have
        if self.baseline_file is None or self.metric.baseline is not None:
            return
        for name, of_set in self._baseline_answers(Path(self.baseline_file)).items():
            self._update(name, share(of_set))
        self.metric.keep_as_baseline()

    def measure(self, answered: dict[str, list[Answered]]) -> dict[str, Measured]:
        self.metric.reset()
        measured: dict[str, Measured] = {}
        for name, of_set in answered.items():
            answers = [one.answer for one in of_set]
            self._update(name, answers)
            metrics = rate_metrics(answers)
            metrics |= exploration_metrics(answers, self.exploration, self.sampling.completions_per_prompt)
            measured |= {f"{name}/{measure}": metric for measure, metric in metrics.items()}
        if self.metric.baseline is None:
            self.metric.keep_as_baseline()
        for name, interval in self.metric.intervals().items():
            measured |= {f"{name}_low": interval.low, f"{name}_high": interval.high}
        return {"generalization_factor": self.metric, **measured}

    def summary(self, figures: Mapping[str, float]) -> str:
        def told(name: str, form: str) -> str:
            low, high = figures[f"{name}_low"], figures[f"{name}_high"]
            return f"{figures[name]:{form}} ({low:{form}} to {high:{form}})"

        if not any(figures[f"{gain}{end}"] for gain in ("gain_id", "gain_ood") for end in ("", "_low", "_high")):
            each = (f"{name} {figures[f'{name}/{self.success}']:.3f}" for name in self.sets)
            return f"{self.success} {', '.join(each)}: what gains are over"
        return (
            f"gain ID {told('gain_id', '+.3f')}, OOD {told('gain_ood', '+.3f')}, "
            f"generalization factor {told('generalization_factor', '.3f')}"
        )

    def _update(self, name: str, answers: Sequence[Answer]) -> None:
        scores = torch.tensor([getattr(answer, self.success) for answer in answers], dtype=torch.float64)
        self.metric.update(name, scores, [answer.prompt_id for answer in answers])

    def _baseline_answers(self, file: Path) -> dict[str, list[Answer]]:
        """The base model's answers to the very prompts that are measured here."""
        if not file.is_file():
            raise SettingsError(f"no such file of answers: baseline {file}")
        answers, found = read_answers(file), {}
        for name, prompts in self.prompts.items():
            wanted = {prompt.id for prompt in prompts}
            of_set = [answer for answer in answers if answer.set == name and answer.prompt_id in wanted]
            found[name] = [answer for answer in of_set if not math.isnan(getattr(answer, self.success))]
            answered = len({answer.prompt_id for answer in of_set})
            if answered < len(wanted) or not found[name]:
                raise SettingsError(
                    f"{file} has answers to {answered} of the {len(wanted)} prompts of the set {name}, "
                    f"{len(found[name])} of them scored: evaluate the base on the same prompts first"
                )
        return found

    def state_dict(self) -> dict[str, Any]:
        metric = self.metric
        return super().state_dict() | {"baseline": metric.baseline, "baseline_answers": metric.baseline_answers}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.metric.baseline = state_dict["baseline"]
        self.metric.baseline_answers = state_dict["baseline_answers"]
