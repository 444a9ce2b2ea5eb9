"""The rules by which published benchmarks read and compare answers, for `PromptSource.benchmark`.

A score depends on its harness: these follow the benchmarks' own scripts, and depart from them where those ask a
language model (MathVista and MathVerse, to find the answer in a response), draw at random (MMMU, where a response names
no option: wrong here) or evaluate what a model wrote as code (MathVision: math-verify here). Always score the base by
the same rule.
"""

from __future__ import annotations

from collections.abc import Callable

from specs_lightning.groups import Prompt
from specs_lightning.scoring.benchmarks.mathvista import mathvista
from specs_lightning.scoring.benchmarks.mega_bench import mega_bench
from specs_lightning.scoring.benchmarks.rules import Ruling, mathvision, mmmu
from specs_lightning.scoring.comparison import judge_by_rules

RULES: dict[str, Callable[[str, Prompt], Ruling]] = {
    "mathvista": mathvista,
    "mathverse": judge_by_rules,
    "mathvision": mathvision,
    "mmmu": mmmu,
    "mega_bench": mega_bench,
}


def judge_response(response: str, prompt: Prompt) -> Ruling:
    """By the rule of the prompt's benchmark, or as any other answer."""
    return RULES.get(prompt.metadata.get("benchmark", ""), judge_by_rules)(response, prompt)
