"""How settings name trackers: plain values, for commands that do not train themselves."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal

from specs_lightning.errors import SettingsError

Tracker = Literal["csv", "mlflow", "tensorboard", "trackio", "wandb"]
"""What follows a training. `csv` is `metrics.csv`, which is always there."""

TrackerSettings = Tracker | list[Tracker] | None
"""One, several, or none beside `metrics.csv`."""


def trackers_in(settings: TrackerSettings) -> list[Tracker]:
    """Those that are more than `metrics.csv`.

    Raises:
        SettingsError: the package of one is not installed.
    """
    named: list[Tracker] = [settings] if isinstance(settings, str) else settings or []
    wanted: list[Tracker] = [name for name in dict.fromkeys(named) if name != "csv"]
    for name in wanted:
        if find_spec(name) is None:  # each is called like its package
            raise SettingsError(f"--logger {name} needs a package that is not installed: pip install {name}")
    return wanted
