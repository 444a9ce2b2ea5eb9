"""LightningModules: the cold start and GRPO, on one step loop."""

from specs_lightning.modules.cold_start import ColdStartModule
from specs_lightning.modules.grpo import GRPOModule
from specs_lightning.modules.step_loop import PolicyModule, ScheduleSettings

__all__ = ["ColdStartModule", "GRPOModule", "PolicyModule", "ScheduleSettings"]
