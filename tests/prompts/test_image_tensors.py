"""Image tensors are kept while they are of recent use, and made again alike."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.questions import png, prompt
from transformers import AutoProcessor

from specs_lightning.groups import Prompt
from specs_lightning.prompts.encoder import PromptEncoder
from specs_lightning.prompts.image_tensors import ImageTensors
from specs_lightning.prompts.images import BadImage
from specs_lightning.prompts.messages import build_messages


@pytest.fixture(scope="module")
def processor(tiny_model_path: Path) -> Any:
    return AutoProcessor.from_pretrained(tiny_model_path)


def test_a_prompt_is_encoded_once_while_it_is_held_or_of_recent_use(processor: Any) -> None:
    encoder = PromptEncoder(processor)
    first = encoder.encode(prompt("How many?", 1, "a"))
    assert encoder.encode(prompt("How many?", 1, "a")) is first
    pixels = first.vision["pixel_values"]
    del first
    assert encoder.encode(prompt("How many?", 1, "a")).vision["pixel_values"] is pixels


def test_images_beyond_the_memory_are_made_again_and_are_the_same(processor: Any) -> None:
    encoder = PromptEncoder(processor, image_memory_gib=0)  # the latest are kept in any case
    one, two = (encoder.encode(prompt("How many?", 1, id)) for id in "ab")
    assert isinstance(one.vision, ImageTensors) and isinstance(two.vision, ImageTensors)
    assert one.vision.kept is None and two.vision.kept is not None
    again = PromptEncoder(processor).encode(prompt("How many?", 1, "a"))
    torch.testing.assert_close(dict(one.vision), dict(again.vision), rtol=0, atol=0)
    assert one.vision.kept is not None and two.vision.kept is None


def test_an_image_that_is_gone_when_it_is_needed_again_is_told(processor: Any, tmp_path: Path) -> None:
    file = tmp_path / "image.png"
    file.write_bytes(png())
    encoder = PromptEncoder(processor, image_memory_gib=0)
    one = encoder.encode(Prompt("p", build_messages("?", 1), (file,)))
    encoder.encode(prompt("How many?", 1, "another"))
    file.unlink()
    with pytest.raises(BadImage, match="image 1 of prompt p"):
        one.vision["pixel_values"]
