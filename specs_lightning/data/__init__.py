"""Data: prompts and preference pairs from files, and the DataModules that make batches of groups of them."""

from specs_lightning.data.policy_data import EvaluationDataModule
from specs_lightning.data.preference import PreferenceDataModule
from specs_lightning.data.rollout import RolloutDataModule
from specs_lightning.data.rounds import DynamicSampling
from specs_lightning.data.sources import PromptSource

__all__ = ["DynamicSampling", "EvaluationDataModule", "PreferenceDataModule", "PromptSource", "RolloutDataModule"]
