"""All generators go on where they were, from a file that holds plain values alone."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch

from specs_lightning.system.random_state import random_state, set_random_state


def draws() -> list[float]:
    return [random.gauss(0, 1), float(np.random.randn()), torch.randn(1).item()]


def test_they_go_on_where_they_were(tmp_path: Path) -> None:
    draws()  # Gaussian generators draw two at once and keep one
    torch.save(random_state(), tmp_path / "state")
    expected = [draws() for _ in range(3)]
    set_random_state(torch.load(tmp_path / "state", weights_only=True))
    assert [draws() for _ in range(3)] == expected
