"""Candidates are drawn once: a stopped run goes on, and other pairs are made of the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from helpers.distilling import SAYS_2, SAYS_3, UNTAGGED, WORDS, engine
from helpers.other_content import other_image, other_weights
from helpers.small_runs import ScriptedEngine

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
        defaults: dict[str, Any] = {
            "zero": str(tiny_model_path),
            "base": str(tiny_model_path),
            "sampling": SamplingSettings(3, 64),
        }
        defaults["prompts"] = PromptSource(questions)
        distill(output=str(tmp_path / "out"), engine=drawn, **defaults | settings)
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
            ({"sampling": SamplingSettings(3, 64, top_p=0.9)}, r"top_p: \(not set\) -> 0.9"),
            ({"chat_template_kwargs": {"enable_thinking": False}}, r"chat_template_kwargs.*: \(not set\) -> .*False.*"),
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


class TestContent:
    """Models and prompts are known by what they are, not by their paths and ids."""

    @pytest.fixture
    def moved(self, tiny_model_path: Path, tmp_path: Path, make: Any) -> str:
        """Candidates are there; a copy of the model that they are from."""
        make([SAYS_2], [SAYS_2])
        return str(shutil.copytree(tiny_model_path, tmp_path / "moved"))

    def test_the_same_model_elsewhere_is_not_asked_again(self, again: Any, moved: str, tmp_path: Path) -> None:
        (tmp_path / "out").rename(tmp_path / "renamed")
        assert again(zero=moved, base=moved, candidates=str(tmp_path / "renamed")).calls == []

    def test_another_model_at_the_same_place_is_refused(self, again: Any, moved: str) -> None:
        again(zero=moved, base=moved)
        other_weights(Path(moved))
        with pytest.raises(DataError, match=r"drawn otherwise \(model: the files of .*moved are not those of"):
            again(zero=moved)

    def test_another_question_of_the_same_id_is_asked_and_no_other(
        self, make: Any, again: Any, questions: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("specs_lightning.distill.candidates.PROMPTS_AT_ONCE", 1)
        make([SAYS_2], [SAYS_2])
        other = Path(shutil.copytree(Path(questions).parent, tmp_path / "other"))
        other_image(other)
        rows = (other / "prompts.jsonl").read_text().splitlines()
        asked = json.loads(rows[3]) | {"question": "How many are there?"}
        (other / "prompts.jsonl").write_text("\n".join([*rows[:3], json.dumps(asked), *rows[4:]]))
        calls = again(prompts=PromptSource(str(other / "prompts.jsonl"))).calls
        assert sorted((seed, *ids) for seed, ids in calls) == sorted(
            (f"{side}-0", id) for side in ("zero", "base") for id in ("p0", "p3")
        )
        assert again(prompts=PromptSource(str(other / "prompts.jsonl"))).calls == []

    def test_a_file_from_before_digests_is_used_and_a_warning_says_what_was_not_checked(
        self, make: Any, again: Any, moved: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        for file in (tmp_path / "out").glob("*_candidates.jsonl"):
            header, *rows = map(json.loads, file.read_text().splitlines())
            del header["drawn_by"]["digest"]
            for row in rows:
                del row["asked"]
            file.write_text("".join(json.dumps(row) + "\n" for row in [header, *rows]))
        assert again().calls == []
        assert "it could not be checked that the completions in" in caplog.text
        assert "8 prompts in it are known by their ids alone" in caplog.text
        with pytest.raises(DataError, match=r"drawn otherwise \(model: .* -> .*moved\)"):  # as it was known then
            again(zero=moved)


LIMIT = 63
"""Tokens: of the eight questions, some have more."""


class Killed(BaseException):
    """Whatever ends a process."""


class TestWaves:
    """No more is drawn than the pairs take, and a stop anywhere changes nothing."""

    WRONG: ClassVar[dict[str, list[str]]] = {f"p{i}": [SAYS_2 if i % 2 else SAYS_3] for i in range(8)}
    """Of zero: half of the prompts give no pair."""

    @pytest.fixture(autouse=True)
    def batches_of_two(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for module in ("candidates", "pairs", "waves"):
            monkeypatch.setattr(f"specs_lightning.distill.{module}.PROMPTS_AT_ONCE", 2)

    @pytest.fixture
    def distilled(self, tiny_model_path: Path, questions: str, tmp_path: Path) -> Callable[..., Any]:
        """The engine's calls, what was drawn and what was made; the engine may be killed at one of its calls."""

        def run(output: str, max_pairs: int | None, killed_at: int | None = None, zero: Any = None) -> Any:
            drawn = engine(self.WRONG if zero is None else zero, [SAYS_2, UNTAGGED])
            generate = drawn.generate

            def until_killed(*asked: Any, **named: Any) -> Any:
                if len(drawn.calls) == killed_at:
                    raise Killed
                return generate(*asked, **named)

            drawn.generate = until_killed
            model, folder = str(tiny_model_path), tmp_path / output
            settings, sampling = PairSettings(max_pairs=max_pairs), SamplingSettings(3, 64)
            distill(PromptSource(questions), model, model, str(folder), settings, sampling, drawn)
            files = {side: (folder / f"{side}_candidates.jsonl").read_text() for side in ("zero", "base")}
            pairs = [(p.prompt.id, p.chosen, p.rejected) for p in load_pairs(str(folder / "pairs.parquet"), SetAside())]
            return drawn.calls, files, pairs, json.loads((folder / "statistics.json").read_text())

        return run

    def test_where_every_prompt_gives_a_pair_as_many_prompts_are_drawn_for(self, distilled: Any) -> None:
        calls, files, pairs, statistics = distilled("out", 3, zero=[SAYS_2])
        assert [(seed, len(ids)) for seed, ids in calls] == [("zero-0", 2)] * 2 + [("base-0", 2)] * 2
        assert all(len(text.splitlines()) == 1 + 4 for text in files.values())
        assert len(pairs) == statistics["prompts"] == 3

    def test_where_some_do_not_others_make_up_for_them(self, distilled: Any) -> None:
        _, files, pairs, statistics = distilled("out", 3)
        _, everything, all_pairs, _ = distilled("all", None)
        assert pairs == all_pairs[:3]
        assert statistics["prompts"] == 3 + sum(statistics["dropped"].values())
        assert all(everything[side].startswith(files[side]) for side in files)

    def test_with_too_few_prompts_all_of_them_are_asked_once(self, distilled: Any) -> None:
        calls, _, pairs, statistics = distilled("out", 6)
        assert sorted(id for seed, ids in calls for id in ids if seed == "zero-0") == [f"p{i}" for i in range(8)]
        assert len(pairs) == 4 and statistics["prompts"] == 8

    def test_a_kill_anywhere_changes_nothing(self, distilled: Any) -> None:
        whole_calls, files, pairs, statistics = distilled("whole", 4)
        for killed_at in (1, len(whole_calls) // 2, len(whole_calls) - 1):
            with pytest.raises(Killed):
                distilled(f"killed-{killed_at}", 4, killed_at)
            calls, *made = distilled(f"killed-{killed_at}", 4)
            assert calls == whole_calls[killed_at:], "nothing finished is drawn again"
            assert made == [files, pairs, statistics]

    def test_more_pairs_later_go_on_from_what_there_is(self, distilled: Any) -> None:
        first, _, few, _ = distilled("out", 1)
        more, _, many, _ = distilled("out", 4)
        assert first and not {(seed, *ids) for seed, ids in first} & {(seed, *ids) for seed, ids in more}
        assert many[:1] == few


class TestTooLong:
    @pytest.mark.parametrize("of_engine", [False, True])
    def test_a_prompt_that_is_too_long_is_set_aside(
        self, tiny_model_path: Path, questions: str, tmp_path: Path, of_engine: bool
    ) -> None:
        class Short(ScriptedEngine):
            max_length = LIMIT + 64 if of_engine else None

        model, out = str(tiny_model_path), tmp_path / "out"
        drawn, sampling = Short(lambda prompt, seed: [SAYS_2]), SamplingSettings(3, 64)
        limit = None if of_engine else LIMIT
        distill(
            PromptSource(questions), model, model, str(out), sampling=sampling, engine=drawn, max_prompt_tokens=limit
        )
        aside = [json.loads(line) for line in (out / "set_aside.jsonl").read_text().splitlines()]
        pairs = load_pairs(str(out / "pairs.parquet"), SetAside())
        assert 0 < len(aside) == 8 - len(pairs) < 8
        assert all(row["reason"].startswith(f"prompt longer than {LIMIT} tokens: ") for row in aside)
        assert json.loads((out / "statistics.json").read_text())["dropped"] == {"prompt set aside": len(aside)}


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

    @pytest.mark.parametrize("changes", [{"seed": 1}, {"sampling": SamplingSettings(4, 64)}])
    def test_those_of_something_else_are_refused(self, again: Any, changes: dict[str, Any]) -> None:
        with pytest.raises(DataError, match="drawn otherwise"):
            again(**changes)
