"""What several commands end with: what came out, and what to do next."""

from __future__ import annotations

from pathlib import Path


def scored_by(model: Path) -> str:
    """Where a model is, and the command that scores it."""
    return f"model: {model}\nto score it: specs test --config YOUR_SETS.yaml --model.policy.model {model}"
