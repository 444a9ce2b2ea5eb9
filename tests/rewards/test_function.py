"""Functions that were written for TRL, verl and EasyR1 are rewards as they are."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from trl.rewards import get_repetition_penalty_reward, think_format_reward

from specs_lightning.data.sources import PromptSource, load_prompts
from specs_lightning.groups import Completion, Prompt
from specs_lightning.prompts.set_aside import SetAside
from specs_lightning.rewards import FunctionReward, RewardSum

FUNCTIONS = """
import dataclasses


@dataclasses.dataclass
class Note:
    text: str


def by_column(completions, solution, **columns):
    return [float(s in c[0]["content"]) for c, s in zip(completions, solution, strict=True)]


def by_text(completions, limit):
    return [len(text) <= limit for text in completions]


def everything(prompts, completions, completion_ids, **columns):
    assert prompts[0][-1]["role"] == "user"
    return [len(ids) + len(boxes) + level["of"] for ids, boxes, level in
            zip(completion_ids, columns["boxes"], columns["level"], strict=True)]


def strings_alone(completions, **columns):
    return [None if "?" in text else 1 for text in completions]


def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    return {"score": float(ground_truth in solution_str), "source": data_source, **(extra_info or {})}


def plain_score(solution_str, ground_truth):
    return solution_str == ground_truth


def in_batches(reward_inputs, weight=1.0):
    return [{"overall": weight * g["response_length"], "format": 0.0} for g in reward_inputs]


def one_by_one(reward_input):
    return {"overall": float(reward_input["response"] == reward_input["ground_truth"])}


def fails_on_no(completions, id, **columns):
    if any("no" in c[0]["content"] for c in completions):
        raise KeyError("it")
    return [1.0] * len(completions)


def too_few(completions):
    return [1.0]


def words(completions):
    return ["good"] * len(completions)


def unknown(response, target):
    return 0.0


async def later(completions):
    return [0.0]


_hidden = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(FUNCTIONS)
    return tmp_path / "mine.py"


@pytest.fixture
def prompts(tmp_path: Path) -> list[Prompt]:
    """Two rows with columns of all types."""
    rows = [
        {
            "id": name,
            "question": "How many?",
            "answer": answer,
            "solution": f"is {answer}",
            "boxes": [[0, 1], [2, 3]][:n],
            "level": {"of": 10 * n, "why": None},
            "data_source": "mine",
            "extra_info": {"index": n},
        }
        for n, (name, answer) in enumerate([("first", "2"), ("second", "3")], 1)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return load_prompts(PromptSource(str(tmp_path / "rows.jsonl")), SetAside())


def said(*texts: str) -> list[Completion]:
    return [Completion(tuple(range(len(text))), (), text, True) for text in texts]


@pytest.mark.parametrize(
    ("name", "settings", "texts", "expected"),
    [
        ("by_column", {}, ("it is 2", "it is 2"), [1, 0]),
        ("by_text", {"conversational": False, "arguments": {"limit": 2}}, ("ab", "abc"), [1, 0]),
        ("everything", {}, ("abc", "a"), [3 + 1 + 10, 1 + 2 + 20]),
        ("strings_alone", {"conversational": False}, ("so", "so?"), [1, math.nan]),
        ("compute_score", {}, ("2", "2"), [1, 0]),
        ("plain_score", {}, ("2", "2"), [1, 0]),
        ("in_batches", {"arguments": {"weight": 0.5}}, ("ab", "abc"), [1, 1.5]),
        ("one_by_one", {}, ("2", "2"), [1, 0]),
    ],
)
def test_each_convention_is_told_by_its_parameters(
    file: Path, prompts: list[Prompt], name: str, settings: Any, texts: tuple[str, ...], expected: list[float]
) -> None:
    reward = FunctionReward(f"{file}:{name}", **settings)
    assert reward.name == name
    assert reward(prompts, said(*texts)).tolist() == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("text", ["<think>\nso\n</think>\n2", "2"])
def test_a_function_of_trl_is_found_by_its_module(ask: Callable[..., Prompt], text: str) -> None:
    reward = FunctionReward("trl.rewards.think_format_reward", name="thinks")
    assert reward.name == "thinks"
    assert reward([ask()], said(text)).tolist() == think_format_reward([[{"content": text}]])


def test_one_that_takes_token_ids_alone_does_too(ask: Callable[..., Prompt], tmp_path: Path) -> None:
    lines = "from trl.rewards import get_repetition_penalty_reward", "repeats = get_repetition_penalty_reward(2)"
    (tmp_path / "made.py").write_text("\n".join(lines))
    reward = FunctionReward(f"{tmp_path / 'made.py'}:repeats", name="repeats")
    completion = Completion((1, 2, 1, 2), (), "", True)
    expected = get_repetition_penalty_reward(2)(completion_ids=[[1, 2, 1, 2]])
    assert reward([ask()], [completion]).tolist() == pytest.approx(expected)


def test_verls_gold_answer_is_the_files_own(ask: Callable[..., Prompt], file: Path) -> None:
    reward = FunctionReward(f"{file}:plain_score")
    nested = ask("2", metadata={"reward_model": {"ground_truth": "$2$", "style": "rule"}})
    assert reward([nested, ask("2")], said("$2$", "$2$")).tolist() == [1, 0]


def test_two_functions_of_a_file_share_its_module(file: Path) -> None:
    first, second = (FunctionReward(f"{file}:{name}") for name in ("by_column", "compute_score"))
    assert first.call_with.func.__globals__ is second.call_with.func.__globals__


def test_the_example_of_the_documentation(prompts: list[Prompt], tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "own_data.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(def close.*?)```", page, re.DOTALL)
    (tmp_path / "my_functions.py").write_text(example)
    assert FunctionReward(f"{tmp_path / 'my_functions.py'}:close")(prompts, said("so 2.", "so 2.")).tolist() == [1, 0]


class TestErrors:
    @pytest.mark.parametrize(
        ("name", "what"),
        [
            ("too_few", "returned 1 scores for 2 completions"),
            ("words", "could not convert string to float: 'good'"),
            ("by_text", "missing 1 required positional argument: 'limit'"),
        ],
    )
    def test_they_name_the_function_and_what_it_did(
        self, file: Path, prompts: list[Prompt], name: str, what: str
    ) -> None:
        with pytest.raises(RuntimeError, match=rf"mine\.py:{name} on 2 rows: .*{what}"):
            FunctionReward(f"{file}:{name}")(prompts, said("a", "b"))

    def test_an_error_costs_its_own_completion_and_names_its_row(
        self, file: Path, prompts: list[Prompt], caplog: pytest.LogCaptureFixture
    ) -> None:
        rewards = RewardSum([FunctionReward(f"{file}:fails_on_no")])
        with caplog.at_level(logging.WARNING):
            total_N, by_name = rewards.score(prompts, said("yes", "no"))
        assert total_N.tolist() == pytest.approx([1, math.nan], nan_ok=True)
        (cause,) = filter(None, by_name["fails_on_no"].causes)
        assert "mine.py:fails_on_no on row 2 of" in cause and "KeyError: 'it'" in cause
        assert cause in caplog.text

    @pytest.mark.parametrize(
        ("function", "what"),
        [
            ("{file}:nothing", "no function 'nothing'; there are: by_column, by_text,"),
            ("{file}:_hidden", "no function '_hidden'"),
            ("{file}:later", "asynchronous"),
            ("{file}:unknown", "takes response, target, so it cannot be told how to call it"),
            ("absent.py:f", "there is no file absent.py .relative|there is no file absent.py .paths are relative"),
            ("no_such_module.f", "No module named 'no_such_module'; give FILE.py:NAME"),
            ("f", "give FILE.py:NAME"),
            ("trl.rewards.absent", "no function 'absent'"),
        ],
    )
    def test_what_cannot_be_used_is_refused_with_the_remedy(self, file: Path, function: str, what: str) -> None:
        with pytest.raises(ValueError, match=what):
            FunctionReward(function.format(file=file))

    def test_a_file_that_fails_is_refused_with_its_error(self, tmp_path: Path) -> None:
        (tmp_path / "broken.py").write_text("raise ValueError('not today')")
        with pytest.raises(ValueError, match=r"broken\.py cannot be read as a module: ValueError: not today"):
            FunctionReward(f"{tmp_path / 'broken.py'}:f")
