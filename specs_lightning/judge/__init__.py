"""A language model as a judge: what rules cannot decide is asked of any OpenAI-compatible endpoint."""

from specs_lightning.judge.judge import BudgetSpent, Judge, JudgeError, JudgeSettings, record_usage
from specs_lightning.judge.questions import AnswerQuestion, ConsistencyQuestion

__all__ = [
    "AnswerQuestion",
    "BudgetSpent",
    "ConsistencyQuestion",
    "Judge",
    "JudgeError",
    "JudgeSettings",
    "record_usage",
]
