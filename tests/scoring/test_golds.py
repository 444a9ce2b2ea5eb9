"""Gold answers come out of their wrapping, and each is scored once, by the scorer that will be used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from specs_lightning.groups import Prompt
from specs_lightning.scoring import golds
from specs_lightning.scoring.golds import GoldCheck, bare_gold
from specs_lightning.scoring.math_verify import TIMED_OUT, Comparison, MathVerifier, Verdict


def asked(answer: str | None, answer_type: str = "auto", choices: tuple[str, ...] = (), **metadata: Any) -> Prompt:
    return Prompt("p", (), answer=answer, answer_type=answer_type, choices=choices, metadata=metadata)


@pytest.mark.parametrize(
    ("text", "gold"),
    [
        ("<answer> 3 </answer>", "3"),
        ("<think>a < b</think>\n<answer>no</answer>", "no"),
        ("<solution>x = 2</solution>", "x = 2"),
        ("<answer>3", "3"),
        (r"<answer>\boxed{7}</answer>", "7"),
        ("2 + 2 is 4.\n#### 1,234", "1,234"),
        ("#### -5", "-5"),
        (r"$\boxed{\frac{1}{2}}$", r"\frac{1}{2}"),
        (r"So we get \boxed{4}.", "4"),
        (r"\boxed{4}, again \boxed{4}.", "4"),
        (r"\boxed{2}, \boxed{3}", "2, 3"),
        (r"$\boxed{x=2}$ or $\boxed{x=3}$", "x=2, x=3"),
        (r"\boxed{\boxed{4}}", r"\boxed{4}"),
        (r"\boxed{}", ""),
        ("#### Results\nnone\n", "#### Results\nnone"),
        ("C####", "C####"),
        (r"\boxed{12", r"\boxed{12"),
        ("3 < 4 <answers>", "3 < 4 <answers>"),
        ("no parking", "no parking"),
    ],
)
def test_what_data_sets_wrap_golds_in_is_taken_off(text: str, gold: str) -> None:
    assert bare_gold(text) == gold


def test_a_gold_with_boxes_among_words_is_not_guessed() -> None:
    with pytest.raises(ValueError, match="gold answer with several boxes"):
        bare_gold(r"The base is \boxed{3} and the height is \boxed{4}")


RIGHT = [
    asked("4"),
    asked("no parking"),
    asked("True North", "text"),
    asked("B", choices=("a", "b")),
    asked("12 cm", "choice", ("12 cm", "15 cm")),
    asked(r"\sqrt{2}", "math"),
    asked('[{"bbox_2d": [0, 0, 9, 9], "label": "cat"}]', "boxes"),
    asked(None),
]


@pytest.mark.parametrize("answer_format", ["think_answer", "reasoning_solution", "boxed", "json"])
def test_usable_golds_are_right_in_every_format(tmp_path: Path, answer_format: str) -> None:
    with GoldCheck(2, tmp_path) as check:
        for prompt in RIGHT:
            as_asked = Prompt(
                "p", (), (), prompt.answer, prompt.answer_type, answer_format=answer_format, choices=prompt.choices
            )
            assert check.cause(as_asked) is None, prompt.answer


def test_the_rules_that_refuse_a_gold_say_why(tmp_path: Path) -> None:
    with GoldCheck(1, tmp_path) as check:
        assert "is not one of the 2 options" in str(check.cause(asked("E", "choice", ("a", "b"))))
        assert "unbalanced braces" in str(check.cause(asked(r"\frac{1}{", "math")))
        assert check.cause(asked("", "text")) == "the gold answer is empty"


def test_a_gold_that_its_scorer_finds_wrong_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(golds, "judge_response", lambda response, prompt: Verdict("7" not in response))
    with GoldCheck(1, tmp_path) as check:
        assert check.cause(asked("7")) == "the gold answer '7' is not right by its own scorer"
        assert check.cause(asked("8")) is None


@pytest.mark.parametrize(("score", "right"), [(1.0, True), (0.5, False)])
def test_a_share_must_be_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, score: float, right: bool) -> None:
    monkeypatch.setattr(golds, "judge_response", lambda response, prompt: score)
    with GoldCheck(1, tmp_path) as check:
        assert (check.cause(asked("7", benchmark="mega_bench")) is None) is right


def test_a_benchmark_decides_by_its_own_rule(tmp_path: Path) -> None:
    """By the label where the option's text would be misread, with an unread metric as it is, and never by an error."""
    with GoldCheck(1, tmp_path) as check:
        assert check.cause(asked("f(a)", "choice", ("f(a)", "f(b)"), benchmark="mathvista")) is None
        unread = {"fields": '{"a": "1"}', "metric_info": "{'field_score_function': {'a': 'gpt_4o_as_judge'}}"}
        assert check.cause(asked("1", benchmark="mega_bench", **unread)) is None
        cause = check.cause(asked("1", benchmark="mega_bench", fields="{"))
        assert cause is not None and cause.startswith("the rule of mega_bench fails: JSONDecodeError")


class Asked(list[Comparison]):
    """What math-verify was asked, of which it is told what to say."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, verdict: Verdict) -> None:
        self.verdict = verdict
        monkeypatch.setattr(golds, "judge_response", lambda response, prompt: Comparison(prompt.answer, prompt.answer))
        monkeypatch.setattr(MathVerifier, "compare", self.compare)

    def compare(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        self.extend(comparisons)
        return [self.verdict for _ in comparisons]


def test_a_gold_is_scored_once_for_all_prompts_and_all_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = Asked(monkeypatch, Verdict(False))
    for _ in range(2):
        with GoldCheck(1, tmp_path) as check:
            causes = [check.cause(asked(answer, "math")) for answer in ("x+1", "x+2", "x+1")]
        assert all(cause is not None for cause in causes)
    assert [comparison.gold for comparison in said] == ["x+1", "x+2"]


@pytest.mark.parametrize(
    "changed",
    [{"answer_type": "number"}, {"choices": ("a", "b")}, {"precision": 2}, {"answer_format": "boxed"}],
)
def test_whatever_a_verdict_depends_on_tells_golds_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any]
) -> None:
    said = Asked(monkeypatch, Verdict(True))
    with GoldCheck(1, tmp_path) as check:
        check.cause(Prompt("p", (), answer="A", answer_type="math"))
        check.cause(Prompt("p", (), **{"answer": "A", "answer_type": "math", **changed}))
    assert len(said) == 2


def test_another_scorer_scores_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = Asked(monkeypatch, Verdict(True))
    for digest in ("one", "other"):
        monkeypatch.setattr(golds, "scorer_digest", lambda digest=digest: digest)
        with GoldCheck(1, tmp_path) as check:
            check.cause(asked("x+1"))
    assert len(said) == 2


def test_what_could_not_be_known_is_asked_twice_and_then_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = Asked(monkeypatch, Verdict(None, TIMED_OUT))
    for _ in range(2):
        with GoldCheck(1, tmp_path) as check:
            assert check.cause(asked("x+1")) == TIMED_OUT
    assert len(said) == 2  # a run that goes on sets the same rows aside


def test_a_cache_that_cannot_be_used_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with GoldCheck(1, tmp_path / "file") as check:
        assert check.cause(asked("4")) is None
    folder = tmp_path / "golds"
    with GoldCheck(1, folder) as check:
        check.cause(asked("4"))
    (kept,) = folder.iterdir()
    kept.write_bytes(b"SQLite format 3\0" + bytes(200))
    with GoldCheck(1, folder) as check:
        assert check.cause(asked("4")) is None
