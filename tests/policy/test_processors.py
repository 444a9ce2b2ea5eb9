"""A tokenizer alone is used as processors are, and what a model cannot be used without is asked for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from specs_lightning.policy.processors import TextProcessor, load_processor

PARTS = [{"type": "text", "text": "What is "}, {"type": "text", "text": "7 - 3?"}]


@pytest.fixture
def tokenizer_folder(tiny_model_path: Path, tmp_path: Path) -> Path:
    AutoTokenizer.from_pretrained(tiny_model_path).save_pretrained(tmp_path)
    file = tmp_path / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps({name: value for name, value in settings.items() if name != "processor_class"}))
    shutil.copy(tiny_model_path / "chat_template.jinja", tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    return tmp_path


def test_messages_of_parts_become_one_text_each(tokenizer_folder: Path) -> None:
    processor = load_processor(str(tokenizer_folder))
    assert isinstance(processor, TextProcessor)
    messages = [{"role": "user", "content": PARTS}]
    text = processor.apply_chat_template(messages, tokenize=False)
    assert text == processor.apply_chat_template([{"role": "user", "content": "What is 7 - 3?"}], tokenize=False)
    inputs = processor([text], return_tensors="pt")
    assert processor.tokenizer.decode(inputs["input_ids"][0]) == text


def test_it_takes_no_images(tokenizer_folder: Path) -> None:
    with pytest.raises(ValueError, match="takes no images"):
        load_processor(str(tokenizer_folder))(["?"], images=[b""])
    with pytest.raises(ValueError, match=r"no image processor \(preprocessor_config\.json\)"):
        load_processor(str(tokenizer_folder), takes_images=True)


def test_a_model_of_images_has_its_own(tiny_model_path: Path) -> None:
    assert hasattr(load_processor(str(tiny_model_path), takes_images=True), "image_processor")
