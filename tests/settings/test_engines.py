"""Names of engines, as settings give them."""

from __future__ import annotations

from typing import Any

import pytest

from specs_lightning import rollout
from specs_lightning.settings.engines import ENGINES, engine_class_path


@pytest.mark.parametrize("name", ENGINES)
def test_a_short_name_is_that_of_an_engine(name: str) -> None:
    module, _, engine = engine_class_path(name)["class_path"].rpartition(".")
    assert module == rollout.__name__
    assert issubclass(getattr(rollout, engine), rollout.RolloutEngine)


@pytest.mark.parametrize(
    ("given", "found"),
    [("mine.Engine", {"class_path": "mine.Engine"}), ({"class_path": "a.B", "init_args": {"c": 1}},) * 2],
)
def test_others_are_what_they_say(given: Any, found: dict[str, Any]) -> None:
    assert engine_class_path(given) == found
