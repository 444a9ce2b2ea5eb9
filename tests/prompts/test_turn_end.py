"""A completion ends with what the chat template writes behind an answer, as sampling does."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.tiny_models import tiny_tokenizer

from specs_lightning.policy.processors import TextProcessor
from specs_lightning.prompts.encoder import PromptEncoder
from specs_lightning.prompts.turn_end import turn_end

TURN = "{% for m in messages %}<start_of_turn>{{ m['role'] }}\n{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
TEMPLATES = {
    "as Gemma's": (TURN, "<end_of_turn>"),
    "behind a space": (TURN.replace("<end", " <end"), "<end_of_turn>"),
    "by the tokenizer's own": (TURN.replace("<end_of_turn>", "{{ eos_token }}"), "<|im_end|>"),
    "that ends no turn": (TURN.replace("<end_of_turn>", ""), "<|im_end|>"),
    "that takes no answers": (
        "{% for m in messages %}{% if m['role'] != 'user' %}{{ raise_exception('no') }}{% endif %}"
        "{{ m['content'] }}{% endfor %}",
        "<|im_end|>",
    ),
    "that leaves answers out": ("{{ messages[0]['content'] }}<end_of_turn>", "<|im_end|>"),
    "that stumbles over answers": (
        "{% for m in messages %}{{ m['content'] }}{% if not loop.first %}{{ m['content'] + 1 }}{% endif %}{% endfor %}",
        "<|im_end|>",
    ),
}


def processor_of(template: str) -> Any:
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<start_of_turn>", "<end_of_turn>"]})
    tokenizer.chat_template = template
    return TextProcessor(tokenizer)


@pytest.mark.parametrize("case", TEMPLATES)
def test_it_is_the_templates_own_where_sampling_stops_at_it(case: str) -> None:
    template, expected = TEMPLATES[case]
    processor = processor_of(template)
    ids = processor.tokenizer.get_vocab()
    stops = [ids["<|im_end|>"], ids["<end_of_turn>"]]
    assert processor.tokenizer.decode(turn_end(processor, stops)) == expected
    assert PromptEncoder(processor, stop_ids=stops).encode_completion("4")[-1] == ids[expected]


def test_one_that_does_not_end_sampling_is_not_taken() -> None:
    processor = processor_of(TURN)
    ids = processor.tokenizer.get_vocab()
    assert turn_end(processor) == turn_end(processor, [ids["<|im_end|>"]]) == ids["<|im_end|>"]
    assert turn_end(processor, [ids["<|endoftext|>"]]) == ids["<|endoftext|>"]
