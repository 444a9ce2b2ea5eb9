"""What a run's stages do: train, make pairs, evaluate. Each leaves a folder that can be used by itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from specs_lightning.callbacks.sample_table import completion_row, sample_row
from specs_lightning.callbacks.stage_progress import StageProgress
from specs_lightning.commands.fit import SpecsCLI
from specs_lightning.data.sources import PromptSource, load_prompts
from specs_lightning.distill.pairs import distill
from specs_lightning.evaluation.evaluator import Answered, Evaluator
from specs_lightning.judge import Judge, JudgeSettings, record_usage
from specs_lightning.policy.loading import PolicySettings
from specs_lightning.policy.policy import Policy
from specs_lightning.prompts.encoder import PromptEncoder, try_encode
from specs_lightning.prompts.set_aside import SetAside
from specs_lightning.records.answers import Answer, write_answers
from specs_lightning.rollout import RolloutEngine, SamplingSettings
from specs_lightning.settings.functions import function_settings
from specs_lightning.system.files import write_whole
from specs_lightning.system.progress import progress_bar

PROMPTS_AT_ONCE = 128
SAMPLES_OF_A_SET = 3


def fit_stage(title: str, config: str, overrides: Sequence[str], folder: Path) -> None:
    """Train as `specs fit` does, from where an earlier attempt was stopped; the model goes to `folder/model`."""
    own = [f"--trainer.default_root_dir={folder}", "--ckpt_path=last"]
    SpecsCLI.launch(["fit", f"--config={config}", *overrides, *own], callbacks=[StageProgress(title)])


def distill_stage(config: str, overrides: Sequence[str], folder: Path) -> None:
    """Make pairs as `specs distill` does; samples drawn before a stop are kept."""
    distill(**function_settings(distill, [f"--config={config}", *overrides, f"--output={folder}"]))


def evaluate_stage(
    title: str,
    model: str,
    sets: dict[str, PromptSource],
    sampling: SamplingSettings,
    engine: RolloutEngine,
    folder: Path,
    seed: int = 0,
    judge_settings: JudgeSettings | None = None,
) -> list[Answer]:
    """Answers of a model to evaluation sets, in `folder/answers.jsonl`."""
    judge = None if judge_settings is None else Judge(judge_settings)
    if judge is not None:
        judge.check()
    set_aside = SetAside()
    policy = Policy(PolicySettings(model=model)).to("cuda" if torch.cuda.is_available() else "cpu").eval()
    encoder = PromptEncoder(policy.processor)
    prompts = {name: load_prompts(source, set_aside) for name, source in sets.items()}
    evaluator = Evaluator(engine, sampling, seed, judge=judge)
    answers: list[Answer] = []
    samples: list[Answered] = []
    with progress_bar(title, sum(map(len, prompts.values()))) as advance:
        for name, questions in prompts.items():
            for start in range(0, len(questions), PROMPTS_AT_ONCE):
                batch = questions[start : start + PROMPTS_AT_ONCE]
                encoded = [e for e in (try_encode(encoder, prompt, set_aside) for prompt in batch) if e is not None]
                answered = evaluator.ask(policy, encoded, name)
                answers += [one.answer for one in answered]
                if start == 0:
                    samples += answered[: SAMPLES_OF_A_SET * sampling.completions_per_prompt]
                advance(len(batch))
    evaluator.close()
    engine.close()
    if judge is not None:
        record_usage(judge, folder)
    folder.mkdir(parents=True, exist_ok=True)
    set_aside.write(folder / "set_aside.jsonl")
    if not (folder / "samples.jsonl").exists():  # a training stage has kept its own
        _write_samples(samples, folder / "samples.jsonl")
    write_answers(answers, folder / "answers.jsonl")
    return answers


def _write_samples(answered: list[Answered], file: Path) -> None:
    """Answers to evaluation prompts, as `SampleTable` writes those of a training."""
    by_prompt: dict[tuple[str, str], list[Answered]] = {}
    for one in answered:
        by_prompt.setdefault((one.answer.set, one.prompt.id), []).append(one)
    rows = []
    for group in by_prompt.values():
        judged = [(one.completion, one.answer) for one in group]
        completions = [
            completion_row(completion, answer.solved, {"correct": answer.correct, "format_kept": answer.format_kept})
            for completion, answer in judged
        ]
        rows.append(sample_row(group[0].prompt, 0, completions))
    write_whole(file, "".join(json.dumps(row) + "\n" for row in rows))
