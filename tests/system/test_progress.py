"""Long work shares one display; its bar is there for as long as the work lasts."""

from __future__ import annotations

import pytest

from specs_lightning.system.progress import progress_bar, progress_display


def test_bars_within_a_display_are_on_it_and_leave_it() -> None:
    with progress_display() as display:
        with progress_bar("outer", 3) as advance, progress_bar("inner", 2):
            advance(2, "loss 0.5")
            outer, inner = display.tasks
            assert (outer.description, outer.completed, outer.fields["note"]) == ("outer", 2, "loss 0.5")
            assert (inner.total, inner.completed) == (2, 0)
        assert display.tasks == []


def test_after_a_failure_a_new_display_is_opened() -> None:
    with pytest.raises(RuntimeError), progress_display() as first:
        raise RuntimeError
    with progress_display() as second:
        assert second is not first and not first.live.is_started
