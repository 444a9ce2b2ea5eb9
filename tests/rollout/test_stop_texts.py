"""Where a text ends, token by token; against vLLM's own in test_engine_contract.py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers.tiny_policies import mixed_prompts, sharp_policy
from transformers import AutoTokenizer

from specs_lightning.policy.policy import Policy
from specs_lightning.rollout import EngineError, HFEngine, SamplingSettings
from specs_lightning.rollout.stop_texts import StopWatch, cut_at, first_stop


@pytest.fixture(scope="module")
def tokenizer(tiny_model_path: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_model_path)


def ended(tokenizer: Any, text: str, stop: Sequence[str]) -> tuple[str, str | None]:
    """What was written when a stop text was complete, and which."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    watch = StopWatch(tokenizer.backend_tokenizer, tokenizer("How?")["input_ids"], stop)
    for t, token in enumerate(ids):
        if (found := watch.step(token)) is not None:
            return tokenizer.decode(ids[: t + 1]), found
    return text, None


@pytest.mark.parametrize(
    ("text", "stop", "found"),
    [
        ("It is 4.\n\nQuestion: what?", ["\nQuestion:"], "\nQuestion:"),
        ("<answer>4</answer> and more", ["</answer>", "more"], "</answer>"),
        ("Zwölf 十二 drei", ["十二"], "十二"),
        ("aaab", ["b"], "b"),
        ("nothing of it", ["absent", "it is"], None),
    ],
)
def test_it_ends_with_the_token_that_completes_a_stop_text(
    tokenizer: Any, text: str, stop: list[str], found: str | None
) -> None:
    written, by = ended(tokenizer, text, stop)
    assert by == found
    assert written == text if found is None else (found in written and written.startswith(text.split(found)[0]))
    assert found is None or len(written) < len(text) or text.endswith(found)


def test_of_several_the_one_that_is_complete_first_counts() -> None:
    assert first_stop("abc", ["bc", "ab", "abc"]) == "ab"
    assert first_stop("abc", ["bc", "abc"]) == "bc"
    assert first_stop("abc", ["d"]) is None


def test_a_text_ends_before_the_stop_text_or_with_it() -> None:
    assert cut_at("a.b.c", ".", SamplingSettings(stop=["."])) == "a"
    assert cut_at("a.b.c", ".", SamplingSettings(stop=["."], include_stop=True)) == "a."
    assert cut_at("a.b", None, SamplingSettings(stop=["."])) == "a.b"


def test_a_stop_text_in_the_prompt_is_none(tokenizer: Any) -> None:
    watch = StopWatch(tokenizer.backend_tokenizer, tokenizer("Stop")["input_ids"], ["Stop", "top,"])
    assert {watch.step(token) for token in tokenizer(", it")["input_ids"]} == {None}


def test_a_tokenizer_of_another_kind_is_refused_with_what_to_do(
    tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy: Policy = sharp_policy(tiny_model_path)
    monkeypatch.setattr(type(policy.tokenizer), "is_fast", False)
    engine = HFEngine()
    engine.sync(policy)
    with pytest.raises(EngineError, match=r"sampling\.stop needs a tokenizer of the tokenizers library"):
        engine.generate(mixed_prompts(policy)[:1], SamplingSettings(1, 2, stop=["."]), "seed")
