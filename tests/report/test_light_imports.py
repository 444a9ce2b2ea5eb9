"""Reports and comparisons of what is there need no torch: they start at once, and open where nothing is trained."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "lightning", "transformers", "datasets", "scipy", "matplotlib")


@pytest.mark.parametrize(
    "module", ["report.page", "report.comparison", "runs.comparison", "commands.doctor", "settings.functions", "cli"]
)
def test_nothing_heavy_is_imported(module: str) -> None:
    found = f"print(*sorted({{name.split('.')[0] for name in sys.modules}} & set({HEAVY})))"
    code = f"import sys, specs_lightning.{module}; {found}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
