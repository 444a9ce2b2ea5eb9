"""Objectives: pure functions of log-probabilities, with frozen settings."""

from specs_lightning.objectives.advantages import (
    Advantages,
    BatchScaled,
    GroupRelative,
    LeaveOneOut,
    PerReward,
    group_advantages,
)
from specs_lightning.objectives.base import ColdStartObjective, LossTerms, token_share
from specs_lightning.objectives.dpo import DPO
from specs_lightning.objectives.grpo import GRPO
from specs_lightning.objectives.mismatch import MismatchCorrection
from specs_lightning.objectives.pairwise import IPO, ORPO, APODown, APOZero, LengthNormalizedDPO, SimPO
from specs_lightning.objectives.preference import PreferenceObjective
from specs_lightning.objectives.sft import SFT
from specs_lightning.objectives.surrogates import CISPO, SAPO, Clipped, Surrogate

__all__ = [
    "CISPO",
    "DPO",
    "GRPO",
    "IPO",
    "ORPO",
    "SAPO",
    "SFT",
    "APODown",
    "APOZero",
    "Advantages",
    "BatchScaled",
    "Clipped",
    "ColdStartObjective",
    "GroupRelative",
    "LeaveOneOut",
    "LengthNormalizedDPO",
    "LossTerms",
    "MismatchCorrection",
    "PerReward",
    "PreferenceObjective",
    "SimPO",
    "Surrogate",
    "group_advantages",
    "token_share",
]
