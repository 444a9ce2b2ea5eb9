"""Candidates are drawn once: a stopped run goes on, and other pairs are made of the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.distilling import SAYS_2, UNTAGGED, WORDS, engine

from specs_lightning.data.pairs import load_pairs
from specs_lightning.data.sources import PromptSource
from specs_lightning.data.tables import DataError
from specs_lightning.distill.pairs import PairSettings, distill
from specs_lightning.prompts.set_aside import SetAside
from specs_lightning.rollout import SamplingSettings


@pytest.fixture
def again(tiny_model_path: Path, questions: str, tmp_path: Path) -> Callable[..., Any]:
    """Goes on in the folder of `make`; gives the engine, to see what was asked."""

    def run(**settings: Any) -> Any:
        drawn = engine([SAYS_2], ["never asked"])
        defaults = {"zero": str(tiny_model_path), "base": str(tiny_model_path), "sampling": SamplingSettings(3, 64)}
        distill(PromptSource(questions), output=str(tmp_path / "out"), engine=drawn, **defaults | settings)
        return drawn

    return run


class TestResume:
    def test_samples_drawn_before_are_used_again(
        self, make: Any, again: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("specs_lightning.distill.candidates.PROMPTS_AT_ONCE", 3)
        first, _ = make([SAYS_2], [SAYS_2, UNTAGGED])
        candidates = tmp_path / "out" / "zero_candidates.jsonl"
        header, *lines = candidates.read_text().splitlines(keepends=True)
        order = [json.loads(line)["prompt_id"] for line in lines]
        assert sorted(order) == [f"p{i}" for i in range(8)]
        # As a kill leaves it: four prompts done, the fifth cut off.
        candidates.write_text(header + "".join(lines[:4]) + lines[4][:40])
        # The fourth is asked again: drawn in other company, its rounding would be another.
        assert again().calls == [("zero-0", order[3:6]), ("zero-0", order[6:])]
        pairs = load_pairs(str(tmp_path / "out" / "pairs.parquet"), SetAside())
        assert [(p.chosen, p.rejected) for p in pairs] == [(p.chosen, p.rejected) for p in first]
        # And the file is whole again: nothing more is asked.
        assert again().calls == []

    @pytest.mark.parametrize(
        ("settings", "changed"),
        [
            ({"seed": 1}, "seed: zero-0 -> zero-1"),
            ({"sampling": SamplingSettings(3, 32)}, "max_tokens: 64 -> 32"),
            ({"zero": "other"}, "model: .* -> other"),
        ],
    )
    def test_samples_drawn_otherwise_are_refused(
        self, make: Any, again: Any, settings: dict[str, Any], changed: str
    ) -> None:
        make([SAYS_2], [SAYS_2])
        with pytest.raises(DataError, match=rf"zero_candidates.jsonl holds .* drawn otherwise \({changed}\)"):
            again(**settings)

    def test_candidates_are_kept_as_texts_without_their_tokens(self, make: Any, tmp_path: Path) -> None:
        make([SAYS_2], [SAYS_2])
        rows = [json.loads(line) for line in (tmp_path / "out" / "base_candidates.jsonl").read_text().splitlines()[1:]]
        assert {row["prompt_id"] for row in rows} == {f"p{i}" for i in range(8)}
        assert all(row["completions"] == [{"text": SAYS_2, "finished": True, "opened": ""}] for row in rows)


class TestCandidatesOfAnother:
    @pytest.fixture
    def again(self, make: Any, tiny_model_path: Path, questions: str, tmp_path: Path) -> Callable[..., Path]:
        make([SAYS_2], [SAYS_2, WORDS], output="first")

        def run(**changes: Any) -> Path:
            model = str(tiny_model_path)
            settings = {"zero": model, "base": model, "sampling": SamplingSettings(3, 64), "seed": 0} | changes
            candidates = settings.pop("candidates", str(tmp_path / "first"))
            pairs = PairSettings(corruptions=["strip_all_tags"])
            silent = engine([], [])  # says nothing: whoever asks it has no candidates
            return distill(
                PromptSource(questions),
                output=str(tmp_path / "second"),
                pairs=pairs,
                engine=silent,
                candidates=candidates,
                **settings,
            )

        return run

    def test_they_are_used_again_for_other_pairs(self, again: Any, tmp_path: Path) -> None:
        pairs = load_pairs(str(again()), SetAside())
        assert len(pairs) == 8 and {pair.provenance["corruption"] for pair in pairs} == {"strip_all_tags"}
        assert not list((tmp_path / "second").glob("*_candidates.jsonl"))

    @pytest.mark.parametrize("changes", [{"seed": 1}, {"zero": "other"}, {"sampling": SamplingSettings(4, 64)}])
    def test_those_of_something_else_are_refused(self, again: Any, changes: dict[str, Any]) -> None:
        with pytest.raises(DataError, match="drawn otherwise"):
            again(**changes)
