"""What several commands end with."""

from __future__ import annotations

from pathlib import Path

from specs_lightning.commands.endings import scored_by


def test_a_model_is_named_with_the_command_that_scores_it() -> None:
    first, second = scored_by(Path("runs/zero/model")).splitlines()
    assert first == "model: runs/zero/model"
    assert second == "to score it: specs test --config YOUR_SETS.yaml --model.policy.model runs/zero/model"
