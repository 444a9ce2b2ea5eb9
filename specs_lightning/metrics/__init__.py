"""Measures of generalisation, as torchmetrics."""

from specs_lightning.metrics.generalization_factor import GainKind, GeneralizationFactor, gain, generalization_factor

__all__ = ["GainKind", "GeneralizationFactor", "gain", "generalization_factor"]
