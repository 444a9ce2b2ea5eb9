"""What several commands end with: what came out, and what to do next."""

from __future__ import annotations

from pathlib import Path

from specs_lightning.system.terminal import pasted


def scored_by(model: Path) -> str:
    """Where a model is, and the command that scores it."""
    command = pasted("specs", "test", "--config", "YOUR_SETS.yaml", "--model.policy.model", model)
    return f"model: {model}\nto score it: {command}"
