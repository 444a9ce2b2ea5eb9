"""Rollout engines: what samples completions from the policy."""

from specs_lightning.rollout.engine import RolloutEngine, SamplingSettings
from specs_lightning.rollout.hf import HFEngine

__all__ = ["HFEngine", "RolloutEngine", "SamplingSettings"]
