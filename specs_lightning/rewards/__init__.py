"""Rewards: what a completion is worth, each with a name of its own, and their weighted sum."""

from specs_lightning.errors import RewardError
from specs_lightning.judge import BudgetSpent, Judge, JudgeSettings
from specs_lightning.rewards.accuracy import AccuracyReward, is_correct
from specs_lightning.rewards.base import Reward, RewardSum, Scored
from specs_lightning.rewards.consistency import ConsistencyReward
from specs_lightning.rewards.format import FormatReward
from specs_lightning.rewards.function import FunctionError, FunctionReward
from specs_lightning.rewards.length import CosineLengthReward, RepetitionPenalty, SoftOverlongPenalty
from specs_lightning.scoring.comparison import ANSWER_TYPES, check_gold
from specs_lightning.scoring.consistency import is_consistent
from specs_lightning.scoring.math_verify import MathVerifier

__all__ = [
    "ANSWER_TYPES",
    "AccuracyReward",
    "BudgetSpent",
    "ConsistencyReward",
    "CosineLengthReward",
    "FormatReward",
    "FunctionError",
    "FunctionReward",
    "Judge",
    "JudgeSettings",
    "MathVerifier",
    "RepetitionPenalty",
    "Reward",
    "RewardError",
    "RewardSum",
    "Scored",
    "SoftOverlongPenalty",
    "check_gold",
    "is_consistent",
    "is_correct",
]
