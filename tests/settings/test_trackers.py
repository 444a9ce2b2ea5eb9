"""A tracker whose package is not there is refused before anything is done, with what to install."""

from __future__ import annotations

import pytest
from helpers.command_line import refused
from helpers.fake_trackers import PACKAGES, stand_in

from specs_lightning.errors import SettingsError
from specs_lightning.settings import trackers
from specs_lightning.settings.trackers import Tracker, TrackerSettings, trackers_in


@pytest.mark.parametrize("name", PACKAGES)
def test_one_that_is_not_installed_is_named_in_a_sentence(name: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=f"--logger {name} needs a package .*: pip install {name}$"):
        trackers_in(name)


def test_the_metrics_file_needs_no_tracker_and_one_named_twice_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch)
    given: list[tuple[TrackerSettings, list[str]]] = [
        (None, []),
        ("csv", []),
        ("wandb", ["wandb"]),
        (["csv", "mlflow", "wandb", "mlflow"], ["mlflow", "wandb"]),
    ]
    assert [trackers_in(settings) for settings, _ in given] == [found for _, found in given]


def test_an_unknown_one_is_told_which_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, "fit", "--config=configs/toy/grpo.yaml", "--logger=comet")
    assert "logger: expected" in message and "wandb" in message and "comet" in message
