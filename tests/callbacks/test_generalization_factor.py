"""Generalisation is measured when it should be, over the right baseline, and training does not notice."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.small_runs import Curve, Letters, ScriptedEngine, adam, small_trainer, trained_weights, write_prompt_file
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from specs_lightning.callbacks import GeneralizationFactorCallback
from specs_lightning.data import RolloutDataModule
from specs_lightning.data.sources import PromptSource
from specs_lightning.evaluation.answer_metrics import EXPLORATION
from specs_lightning.groups import Prompt
from specs_lightning.modules import GRPOModule, ScheduleSettings
from specs_lightning.policy.loading import PolicySettings
from specs_lightning.records.answers import Answer, write_answers
from specs_lightning.rollout import SamplingSettings

RIGHT, WRONG, PLAIN = "<think>so</think><answer>2</answer>", "<think>so</think><answer>1</answer>", "Answer: 2"


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> PromptSource:
    return PromptSource(str(write_prompt_file(tmp_path_factory.mktemp("prompts"))))


class Improving(ScriptedEngine):
    """Every answer is plain at first and right in the format after the first step, in distribution alone."""

    def __init__(self) -> None:
        super().__init__(self._say)

    def _say(self, prompt: Prompt, seed: str) -> Sequence[str]:
        if seed.endswith("-id"):
            return [PLAIN if self.policy.version == 0 else RIGHT]
        half = PLAIN if int(prompt.id[1:]) % 2 else RIGHT
        return [WRONG if self.policy.version == 0 else half]


def make(prompts: PromptSource, **settings: Any) -> GeneralizationFactorCallback:
    defaults: dict[str, Any] = {
        "every_n_steps": 2,
        "sampling": SamplingSettings(1, 8),
        "engine": Improving(),
    }
    limited = PromptSource(prompts.path, limit=4)
    return GeneralizationFactorCallback(limited, {"ood": limited, "more": limited}, **defaults | settings)


def fit(
    model: Path, prompts: PromptSource, folder: Path, *callbacks: Callback, rounds: int = 5, **trainer: Any
) -> GRPOModule:
    module = GRPOModule(PolicySettings(str(model)), optimizer=adam, schedule=ScheduleSettings("constant", 0.0))
    data = RolloutDataModule(
        prompts,
        rewards=[Letters()],
        sampling=SamplingSettings(3, 6),
        prompts_per_round=2,
        steps_per_round=1,
        rounds=rounds,
    )
    resume = trainer.pop("ckpt_path", None)
    small_trainer(folder, *callbacks, **trainer).fit(module, datamodule=data, ckpt_path=resume)
    return module


def measured(folder: Path) -> list[dict[str, str]]:
    with (folder / "csv" / "version_0" / "metrics.csv").open() as file:
        return [row for row in csv.DictReader(file) if row.get("gf/gain_id")]


class TestWhen:
    @pytest.mark.parametrize(
        ("every", "rounds", "steps"), [(2, 5, [0, 2, 4, 5]), (2, 4, [0, 2, 4]), (0, 3, [0, 3]), (50, 3, [0, 3])]
    )
    def test_before_the_first_step_every_n_and_at_the_end_once_each(
        self,
        tiny_model_path: Path,
        prompts: PromptSource,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        every: int,
        rounds: int,
        steps: list[int],
    ) -> None:
        callback = make(prompts, every_n_steps=every)
        logger = CSVLogger(tmp_path, name="csv")
        fit(tiny_model_path, prompts, tmp_path, callback, rounds=rounds, logger=logger, log_every_n_steps=1)
        assert [int(row["step"]) for row in measured(tmp_path)] == steps
        first, *others = [line for line in capsys.readouterr().out.splitlines() if ": gf: " in line]
        assert first.endswith("what gains are over") and "solved id 0." in first  # and no row of zeros
        assert len(others) == len(steps) - 1 and all("gain ID" in line for line in others)
        calls = callback.engine.calls  # type: ignore[union-attr]
        assert [seed for seed, _ in calls] == [f"evaluation-0-{name}" for name in ("id", "ood", "more")] * len(steps)

    def test_a_resumed_run_measures_nothing_twice_and_keeps_its_baseline(
        self, tiny_model_path: Path, prompts: PromptSource, tmp_path: Path
    ) -> None:
        keeper = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=2, save_top_k=-1)
        fit(tiny_model_path, prompts, tmp_path, make(prompts), keeper, rounds=4, enable_checkpointing=True)
        again = make(prompts)
        fit(tiny_model_path, prompts, tmp_path, again, rounds=4, ckpt_path=tmp_path / "step=2.ckpt")
        assert len(again.engine.calls) == 3  # type: ignore[union-attr]  # of three sets, after step 4
        assert again.metric.baseline == {"id": 0.0, "ood": 0.0, "more": 0.0}


class TestWhat:
    def test_rates_gains_and_the_factor_are_logged(
        self, tiny_model_path: Path, prompts: PromptSource, tmp_path: Path
    ) -> None:
        logger = CSVLogger(tmp_path, name="csv")
        fit(tiny_model_path, prompts, tmp_path, make(prompts), logger=logger, log_every_n_steps=1)
        first, *_, last = measured(tmp_path)
        assert float(first["gf/id/correct"]) == 1.0
        assert float(first["gf/id/format_kept"]) == float(first["gf/id/solved"]) == 0.0
        assert float(first["gf/ood/format_kept"]) == 1.0
        assert [float(first[f"gf/{name}"]) for name in ("gain_id", "gain_ood", "generalization_factor")] == [0, 0, 0]
        assert float(last["gf/gain_id"]) == 1.0
        assert float(last["gf/gain_ood"]) == 0.5
        assert float(last["gf/generalization_factor"]) == pytest.approx(5 * 0.5 / (4 + 0.5))

    def test_each_kind_of_sets_has_its_gain_and_factor(
        self, tiny_model_path: Path, prompts: PromptSource, tmp_path: Path
    ) -> None:
        limited = PromptSource(prompts.path, limit=4)
        callback = GeneralizationFactorCallback(
            limited,
            {"formats/boxed": limited, "looks/dark": limited, "looks/more": limited},
            every_n_steps=0,
            sampling=SamplingSettings(1, 8),
            engine=Improving(),
        )
        assert callback.metric.ood_weights == pytest.approx(
            {"formats/boxed": 0.5, "looks/dark": 0.25, "looks/more": 0.25}
        )
        logger = CSVLogger(tmp_path, name="csv")
        fit(tiny_model_path, prompts, tmp_path, callback, rounds=1, logger=logger, log_every_n_steps=1)
        *_, last = measured(tmp_path)
        assert float(last["gf/formats/boxed/solved"]) == 0.5
        for kind in ("formats", "looks"):
            low, found, high = (float(last[f"gf/gain_ood/{kind}{end}"]) for end in ("_low", "", "_high"))
            assert 0 <= low < found == 0.5 < high <= 1
            assert float(last[f"gf/generalization_factor/{kind}"]) == pytest.approx(5 * 0.5 / (4 + 0.5))

    def test_another_measure(self, tiny_model_path: Path, prompts: PromptSource, tmp_path: Path) -> None:
        callback = make(prompts, measure="correct", weights={"ood": 1.0, "more": 3.0})
        fit(tiny_model_path, prompts, tmp_path, callback, rounds=1)
        assert callback.metric.scores() == {"id": 1.0, "ood": 1.0, "more": 1.0}
        assert callback.metric.baseline == {"id": 1.0, "ood": 0.0, "more": 0.0}
        assert callback.metric.compute()["gain_ood"] == 1.0

    def test_the_baseline_may_come_from_an_evaluation_of_the_base(
        self, tiny_model_path: Path, prompts: PromptSource, tmp_path: Path
    ) -> None:
        def answer(name: str, prompt_id: str, solved: float) -> Answer:
            return Answer(name, prompt_id, "", 1, True, solved, solved, solved)

        answers = [answer(name, f"p{i}", float(i == 0)) for name in ("id", "ood", "more") for i in range(4)]
        answers += [answer("id", "not measured here", 1.0), answer("id", "p1", math.nan), answer("else", "p1", 1.0)]
        write_answers(answers, tmp_path / "answers.jsonl")
        callback = make(prompts, baseline=str(tmp_path / "answers.jsonl"))
        fit(tiny_model_path, prompts, tmp_path, callback, rounds=1)
        assert callback.metric.baseline == {"id": 0.25, "ood": 0.25, "more": 0.25}
        assert callback.metric.compute()["gain_id"] == 0.75

    def test_the_intervals_pair_the_baseline_by_prompt(
        self, tiny_model_path: Path, prompts: PromptSource, tmp_path: Path
    ) -> None:
        """Prompts differ, and no prompt's answer ever does: no gain, without any doubt."""
        callback = make(prompts, engine=ScriptedEngine(lambda prompt, seed: [RIGHT if prompt.id < "p2" else WRONG]))
        logger = CSVLogger(tmp_path, name="csv")
        fit(tiny_model_path, prompts, tmp_path, callback, rounds=1, logger=logger, log_every_n_steps=1)
        *_, last = measured(tmp_path)
        assert float(last["gf/id/solved"]) == 0.5
        ends = [float(last[f"gf/{name}_{end}"]) for name in ("gain_id", "gain_ood") for end in ("low", "high")]
        assert ends == [0, 0, 0, 0]

    def test_the_intervals_hold_what_was_found(
        self, tiny_model_path: Path, prompts: PromptSource, tmp_path: Path
    ) -> None:
        logger = CSVLogger(tmp_path, name="csv")
        fit(tiny_model_path, prompts, tmp_path, make(prompts), rounds=1, logger=logger, log_every_n_steps=1)
        *_, last = measured(tmp_path)
        low, found, high = (float(last[f"gf/gain_ood{end}"]) for end in ("_low", "", "_high"))
        assert 0 <= low < found == 0.5 < high <= 1

    def test_exploration_is_logged_where_asked(
        self, tiny_model_path: Path, prompts: PromptSource, tmp_path: Path
    ) -> None:
        """Prompt 0 is right twice, 1 once, 2 wrong in the same way, 3 in two ways."""
        said = [[RIGHT, PLAIN], [RIGHT, WRONG], [WRONG, "Answer: 1"], [WRONG, "Answer: 3"]]
        logger = CSVLogger(tmp_path, name="csv")
        callback = make(
            prompts,
            engine=ScriptedEngine(lambda prompt, seed: said[int(prompt.id[1:])]),
            sampling=SamplingSettings(2, 8),
            exploration=[*EXPLORATION],
        )
        fit(tiny_model_path, prompts, tmp_path, callback, rounds=1, logger=logger, log_every_n_steps=1)
        first, *_ = measured(tmp_path)
        found = {name: float(first[f"gf/ood/{name}"]) for name in ("pass_at_1", "pass_at_2", "stuck_rate")}
        assert found == {"pass_at_1": 3 / 8, "pass_at_2": 0.5, "stuck_rate": 0.25}
        assert 0 < float(first["gf/id/entropy"]) < math.log(400)
        assert 1 < float(first["gf/id/rollout_branching_factor"]) < 400

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"exploration": ["pass_at_k", "luck"]}, "exploration names luck; there are: pass_at_k, stuck_rate"),
            ({"exploration": ["stuck_rate"]}, r"completions_per_prompt must be 2"),
        ],
    )
    def test_exploration_that_cannot_be_measured_is_refused(
        self, prompts: PromptSource, settings: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            make(prompts, **settings)

    def test_a_set_that_takes_the_name_of_the_one_in_distribution_is_refused(self, prompts: PromptSource) -> None:
        with pytest.raises(ValueError, match="`id` is the name of the set in distribution"):
            GeneralizationFactorCallback(prompts, {"id": prompts})

    def test_a_baseline_that_lacks_answers_to_a_set_is_refused(
        self, tiny_model_path: Path, prompts: PromptSource, tmp_path: Path
    ) -> None:
        write_answers([Answer("id", "p0", "", 1, True, 1.0, 1.0, 1.0)], tmp_path / "answers.jsonl")
        with pytest.raises(ValueError, match="has answers to 1 of the 4 prompts of the set id, 1 of them scored"):
            fit(tiny_model_path, prompts, tmp_path, make(prompts, baseline=str(tmp_path / "answers.jsonl")))

    def test_weights_that_name_other_sets_are_refused(self, prompts: PromptSource) -> None:
        with pytest.raises(ValueError, match=r"weights name \['ood'\], the sets are \['more', 'ood'\]"):
            make(prompts, weights={"ood": 1.0})


def test_training_does_not_notice(tiny_model_path: Path, prompts: PromptSource, tmp_path: Path) -> None:
    """With the data module's own engine, as by default: the same losses and weights, bit for bit."""
    curves, weights = [], []
    everything = {"sampling": SamplingSettings(2, 8), "exploration": [*EXPLORATION]}
    for callbacks in ([], [make(prompts, engine=None, every_n_steps=1, **everything)]):
        torch.manual_seed(0)
        curves.append(Curve())
        weights.append(trained_weights(fit(tiny_model_path, prompts, tmp_path, curves[-1], *callbacks)))
    timeless = [[{k: v for k, v in step.items() if "seconds" not in k} for step in curve.steps] for curve in curves]
    assert timeless[0] == timeless[1]
    assert torch.equal(*weights)


def test_sets_of_which_rows_are_bad_are_measured_without_them(tiny_model_path: Path, tmp_path: Path) -> None:
    file = write_prompt_file(tmp_path)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[0]["image"] = "missing.png"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    callback = make(PromptSource(str(file)))
    fit(tiny_model_path, PromptSource(str(file)), tmp_path, callback, rounds=1)
    assert {tuple(ids) for _, ids in callback.engine.calls} == {("p1", "p2", "p3", "p4")}  # type: ignore[union-attr]
