"""Pairs differ in the output format alone, and are made the same way each time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
from helpers.distilling import SAYS_2, SAYS_3, THINK, UNTAGGED, WORDS, Script, engine
from helpers.judge_servers import Reply, data_of, judge_server, verdict
from helpers.small_runs import write_prompt_file

from specs_lightning.data.sources import PromptSource
from specs_lightning.data.tables import DataError
from specs_lightning.distill.pairs import PairSettings, distill
from specs_lightning.groups import Completion, Prompt
from specs_lightning.rewards import AccuracyReward, BudgetSpent, RewardError
from specs_lightning.scoring.answer_formats import FORMATS, answer_format
from specs_lightning.scoring.answer_search import find_answer
from specs_lightning.scoring.corruptions import CORRUPTIONS
from specs_lightning.system.progress import TITLE

CONTRADICTS = THINK.write("one and two, so 3", "2")
ANSWER_ALONE = "2"


def is_right(text: str) -> bool:
    accuracy = AccuracyReward()
    question = Prompt("p", ({"role": "user", "content": "?"},), answer="2", answer_type="number")
    verdict = accuracy([question], [Completion((), (), text, True)]).item()
    accuracy.close()
    return verdict == 1.0


class TestPairing:
    def test_decoupled_both_are_right_and_the_rejected_has_lost_its_format(self, make: Any) -> None:
        pairs, statistics = make([SAYS_3, SAYS_2], [SAYS_3, SAYS_2, WORDS])
        assert len(pairs) == statistics["pairs"] == 8
        for pair in pairs:
            assert pair.chosen == SAYS_2
            assert is_right(pair.rejected)
            assert all(answer_format(name).read(pair.rejected) is None for name in FORMATS)
            assert find_answer(pair.rejected) == "2"
            assert pair.provenance["pairing"] == "decoupled"
            assert pair.provenance["rejected_sample"] in (SAYS_2, WORDS)

    def test_coupled_the_rejected_is_wrong_as_well(self, make: Any) -> None:
        pairs, _ = make([SAYS_2], [SAYS_2, SAYS_3], pairing="coupled")
        for pair in pairs:
            assert pair.chosen == SAYS_2
            assert find_answer(pair.rejected) == "3"
            assert THINK.read(pair.rejected) is None
            assert pair.provenance["rejected_sample"] == SAYS_3

    def test_an_unfinished_sample_is_on_neither_side(self, make: Any) -> None:
        with pytest.raises(DataError, match="8 x no right sample of zero"):
            make([SAYS_2], [SAYS_2], finished=False)

    def test_as_many_as_asked_for(self, make: Any) -> None:
        pairs, statistics = make([SAYS_2], [SAYS_2], max_pairs=3)
        assert len(pairs) == statistics["pairs"] == 3


class TestChosen:
    def test_one_that_contradicts_itself_is_not_chosen(self, make: Any) -> None:
        pairs, statistics = make([CONTRADICTS, SAYS_2], [SAYS_2])
        assert {pair.chosen for pair in pairs} == {SAYS_2}
        assert statistics["chosen_format"] == 16
        assert statistics["chosen_consistent"] == 8

    def test_unless_nothing_is_verified(self, make: Any) -> None:
        pairs, statistics = make([CONTRADICTS], [SAYS_2], verify=False)
        assert {pair.chosen for pair in pairs} == {CONTRADICTS}
        assert "chosen_consistent" not in statistics
        with pytest.raises(DataError, match="8 x no consistent sample of zero"):
            make([CONTRADICTS], [SAYS_2], "verified")

    @pytest.mark.parametrize("text", [UNTAGGED, WORDS])
    def test_a_right_one_without_its_format_is_completed(self, make: Any, text: str) -> None:
        pairs, statistics = make([text], [SAYS_2])
        reasoning = "one and one, so 2" if text == UNTAGGED else "one and one, so 2."
        assert {pair.chosen for pair in pairs} == {THINK.write(reasoning, "2")}
        assert all(pair.provenance["chosen_supplemented"] for pair in pairs)
        assert {pair.provenance["chosen_sample"] for pair in pairs} == {text}
        assert statistics["chosen_format"] == 0

    def test_but_one_that_kept_it_comes_first(self, make: Any) -> None:
        pairs, _ = make([UNTAGGED, SAYS_2, UNTAGGED], [SAYS_2])
        assert {pair.chosen for pair in pairs} == {SAYS_2}
        assert not any(pair.provenance["chosen_supplemented"] for pair in pairs)

    def test_and_none_is_completed_where_that_is_switched_off(self, make: Any) -> None:
        with pytest.raises(DataError, match="8 x no complete sample of zero"):
            make([UNTAGGED], [SAYS_2], supplement=False)

    def test_an_answer_without_reasoning_is_not_completed(self, make: Any) -> None:
        with pytest.raises(DataError, match="8 x no complete sample of zero"):
            make([ANSWER_ALONE], [SAYS_2])


class TestRejected:
    def test_always_corrupted(self, make: Any) -> None:
        pairs, statistics = make([SAYS_2], [UNTAGGED])
        assert {pair.provenance["corruption"] for pair in pairs} <= set(CORRUPTIONS)
        assert sum(statistics["corruptions"].values()) == 8

    def test_one_that_broke_the_format_by_itself_may_stay_as_it_is(self, make: Any) -> None:
        pairs, statistics = make([SAYS_2], [UNTAGGED], corrupt="if_well_formed")
        assert {pair.rejected for pair in pairs} == {UNTAGGED}
        assert statistics["corruptions"] == {"as_sampled": 8}
        pairs, _ = make([SAYS_2], [SAYS_2], "well formed", corrupt="if_well_formed")
        assert all(THINK.read(pair.rejected) is None for pair in pairs)

    def test_by_the_named_corruptions_alone(self, make: Any) -> None:
        pairs, _ = make([SAYS_2], [SAYS_2], corruptions=["announce_answer"])
        assert {pair.rejected for pair in pairs} == {CORRUPTIONS["announce_answer"](SAYS_2, THINK)}

    def test_a_hard_negative_is_zeros_own_wrong_and_well_formed(self, make: Any) -> None:
        wrong_in_words = "one and two, so\nThe answer is 3"
        pairs, statistics = make([SAYS_2, SAYS_3, wrong_in_words], [SAYS_2], hard_negatives=1.0)
        assert {(pair.chosen, pair.rejected) for pair in pairs} == {(SAYS_2, SAYS_3)}
        assert {pair.provenance["pairing"] for pair in pairs} == {"hard_negative"}
        assert statistics["pairings"] == {"hard_negative": 8}
        assert statistics["corruptions"] == {"as_sampled": 8}
        assert statistics["hard_negative_candidates"] == 8

    def test_a_prompt_without_a_hard_negative_has_a_corrupted_one(self, make: Any) -> None:
        zero = {f"p{i}": [SAYS_2, SAYS_3] if i < 3 else [SAYS_2] for i in range(8)}
        pairs, statistics = make(zero, [SAYS_2], hard_negatives=1.0)
        assert {pair.prompt.id for pair in pairs if pair.rejected == SAYS_3} == {"p0", "p1", "p2"}
        others = [pair.rejected for pair in pairs if pair.rejected != SAYS_3]
        assert len(others) == 5 and all(is_right(text) and THINK.read(text) is None for text in others)
        assert statistics["pairings"] == {"hard_negative": 3, "decoupled": 5}

    def test_a_hard_negative_needs_nothing_of_the_base(self, make: Any) -> None:
        pairs, _ = make([SAYS_2, SAYS_3], [WORDS.replace("2", "5")], hard_negatives=1.0)
        assert len(pairs) == 8

    def test_a_share_of_hard_negatives_leaves_the_chosen_as_they_are(self, make: Any) -> None:
        zero = [SAYS_2, SAYS_3, THINK.write("so 2", "2")]
        without, _ = make(zero, [SAYS_2], "without")
        mixed, statistics = make(zero, [SAYS_2], "mixed", hard_negatives=0.5)
        assert [pair.chosen for pair in mixed] == [pair.chosen for pair in without]
        assert 0 < statistics["pairings"]["hard_negative"] < 8
        assert statistics["pairings"]["hard_negative"] + statistics["pairings"]["decoupled"] == 8

    @pytest.mark.parametrize("share", [-0.1, 1.5])
    def test_a_share_is_between_none_and_all(self, share: float) -> None:
        with pytest.raises(ValueError, match="hard_negatives is a share between 0 and 1"):
            PairSettings(hard_negatives=share)

    def test_unknown_or_no_corruptions_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"unknown corruptions \['shout'\]; there are: strip_all_tags"):
            PairSettings(corruptions=["shout"])
        with pytest.raises(ValueError, match="corruptions is empty"):
            PairSettings(corruptions=[])


class TestStatistics:
    ZERO: ClassVar[Script] = {
        **{f"p{i}": [SAYS_2, SAYS_3, UNTAGGED] for i in range(4)},
        "p4": [SAYS_3],
        "p5": [CONTRADICTS],
        "p6": [ANSWER_ALONE],
        "p7": [SAYS_2],
    }
    BASE: ClassVar[Script] = {**{f"p{i}": [SAYS_2, WORDS] for i in range(7)}, "p7": [SAYS_3]}

    def test_they_add_up(self, make: Any) -> None:
        pairs, statistics = make(self.ZERO, self.BASE)
        assert {pair.prompt.id for pair in pairs} == {"p0", "p1", "p2", "p3"}
        assert statistics["dropped"] == {
            "no right sample of zero": 1,
            "no consistent sample of zero": 1,
            "no complete sample of zero": 1,
            "no right sample of base": 1,
        }
        assert statistics["prompts"] == statistics["pairs"] + sum(statistics["dropped"].values()) == 8
        assert sum(statistics["corruptions"].values()) == 4
        assert statistics["chosen_candidates"] == 16
        assert statistics["chosen_correct"] == 11
        assert statistics["rejected_candidates"] == 15
        assert statistics["rejected_fitting"] == 14
        assert statistics["settings"]["pairing"] == "decoupled"

    def test_it_ends_with_how_many_pairs_why_no_more_and_the_next_command(
        self, make: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        make(self.ZERO, self.BASE)
        file = tmp_path / "out" / "pairs.parquet"
        first, *others = capsys.readouterr().out.splitlines()[-3:]
        told, _, reasons = first.partition("; none from ")
        assert told == "4 pairs from 8 prompts"
        assert sorted(reasons.split(", ")) == [
            "1 (no complete sample of zero)",
            "1 (no consistent sample of zero)",
            "1 (no right sample of base)",
            "1 (no right sample of zero)",
        ]
        train = f"to train on them: specs fit --config YOUR_COLD_START.yaml --data.train {file}"
        assert others == [f"pairs: {file}", train]

    def test_prompts_that_are_not_needed_are_no_failures(self, make: Any, capsys: pytest.CaptureFixture[str]) -> None:
        _, statistics = make([SAYS_2], [SAYS_2], max_pairs=3)
        left = 8 - statistics["prompts"]
        assert f"3 pairs from 3 prompts; {left} more prompts were not needed\n" in capsys.readouterr().out

    def test_in_a_run_it_says_no_next_command(
        self, make: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv(TITLE, "[3/6] distill")
        make([SAYS_2], [SAYS_2])
        assert capsys.readouterr().out.splitlines()[-1] == "8 pairs from 8 prompts"

    def test_a_preview_shows_the_pairs(self, make: Any, tmp_path: Path) -> None:
        pairs, _ = make(self.ZERO, self.BASE)
        rows = [json.loads(line) for line in (tmp_path / "out" / "pairs_preview.jsonl").read_text().splitlines()]
        assert [(row["chosen"], row["rejected"]) for row in rows] == [(pair.chosen, pair.rejected) for pair in pairs]
        assert [len(row["images"]) for row in rows] == [len(pair.prompt.images) for pair in pairs]
        assert sum(len(row["images"]) for row in rows) == 3

    def test_without_a_pair_the_reasons_are_named(self, make: Any) -> None:
        with pytest.raises(DataError, match=r"not one pair of 8 prompts \(8 x no right sample of base\)"):
            make([SAYS_2], [SAYS_3])


class TestSeed:
    MIXED = (SAYS_2, UNTAGGED, WORDS)

    def test_the_same_seed_gives_the_same_pairs_and_another_others(self, make: Any) -> None:
        def pairs(output: str, seed: int) -> list[tuple[str, str]]:
            return [(pair.chosen, pair.rejected) for pair in make([SAYS_2], self.MIXED, output, seed)[0]]

        assert pairs("a", 1) == pairs("b", 1)
        assert pairs("a", 1) != pairs("c", 2)

    def test_a_pair_does_not_depend_on_those_before_it(self, make: Any) -> None:
        everything, _ = make([SAYS_2], self.MIXED, "a")
        first = everything[0].prompt.id
        without, _ = make({f"p{i}": [SAYS_3 if f"p{i}" == first else SAYS_2] for i in range(8)}, self.MIXED, "b")
        assert [pair.rejected for pair in without] == [pair.rejected for pair in everything[1:]]


def test_prompts_that_no_pair_can_be_made_of_are_set_aside(tiny_model_path: Path, tmp_path: Path) -> None:
    file = write_prompt_file(tmp_path, 4)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[1]["answer_format"] = "boxed"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = str(tiny_model_path)
    distill(PromptSource(str(file)), model, model, str(tmp_path / "out"), engine=engine([SAYS_2], [SAYS_2]))
    (written,) = [json.loads(line) for line in (tmp_path / "out" / "set_aside.jsonl").read_text().splitlines()]
    assert (written["row"], written["reason"]) == (2, "no corruptions for the answer format: boxed")


class TestJudge:
    """The paper's external evaluator in place of the rule."""

    def test_it_decides_which_samples_are_chosen(self, make: Any, tmp_path: Path) -> None:
        subtle = THINK.write("one and one, so two", "2")  # the rule finds no number in it

        def reads(request: dict[str, Any], number: int) -> Any:
            return verdict(request, "consistent" if "so two" in data_of(request)["reasoning"] else "inconsistent")

        with judge_server(reads) as server:
            pairs, statistics = make([SAYS_2, subtle, SAYS_3], [SAYS_2], judge=server.settings())
            assert len(server.requests) == 8 * 2, "wrong answers are not worth a question"
        assert {pair.chosen for pair in pairs} == {subtle}
        assert {pair.provenance["verifier"] for pair in pairs} == {"judge-1"}
        assert (statistics["chosen_consistent"], statistics["chosen_unverifiable"]) == (8, 0)
        (cost,) = [json.loads(line) for line in (tmp_path / "out" / "judge.jsonl").read_text().splitlines()]
        assert (cost["model"], cost["requests"], cost["questions"], cost["prompt_tokens"]) == ("judge-1", 16, 16, 1600)

    def test_prompts_are_judged_side_by_side(self, make: Any) -> None:
        def slow(request: dict[str, Any], number: int) -> Any:
            return Reply(verdict(request, "consistent"), wait_s=0.1)

        with judge_server(slow) as server:
            make([SAYS_2], [SAYS_2], judge=server.settings(concurrency=4))
            assert server.most_at_once == 4

    def test_what_it_cannot_judge_is_not_chosen(self, make: Any) -> None:
        def reads(request: dict[str, Any], number: int) -> Any:
            fails = data_of(request)["reasoning"].startswith("one") and number <= 4
            return Reply("", 400) if fails else verdict(request, "consistent")

        with judge_server(reads) as server:
            pairs, statistics = make([SAYS_2], [SAYS_2], judge=server.settings(concurrency=1))
        assert len(pairs) == 4
        assert statistics["chosen_unverifiable"] == 4
        assert statistics["dropped"] == {"no consistent sample of zero": 4}

    def test_a_judge_that_fails_most_questions_ends_it(self, make: Any, tmp_path: Path) -> None:
        with judge_server(Reply("", 400)) as server, pytest.raises(RewardError, match="left 8 of 8 questions"):
            make([SAYS_2], [SAYS_2], judge=server.settings())
        assert not (tmp_path / "out" / "pairs.parquet").exists()

    def test_a_spent_budget_ends_it_and_a_larger_one_goes_on(self, make: Any, tmp_path: Path) -> None:
        cache = str(tmp_path / "judge.sqlite")
        with judge_server(lambda request, number: verdict(request, "consistent")) as server:
            with pytest.raises(BudgetSpent, match=r"judge\.max_requests"):
                make([SAYS_2], [SAYS_2], judge=server.settings(cache=cache, max_requests=3))
            pairs, _ = make([SAYS_2], [SAYS_2], judge=server.settings(cache=cache, max_requests=8))
            assert len(pairs) == 8
            assert len(server.requests) == 8
