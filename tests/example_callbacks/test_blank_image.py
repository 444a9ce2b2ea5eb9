"""A model that looks loses what it saw; one that guesses loses nothing."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
from helpers.small_runs import ScriptedEngine, small_trainer, write_pair_file

from callbacks.blank_image import BlankImageProbe, blank_images, swap_images
from specs_lightning.data import PreferenceDataModule, PromptSource
from specs_lightning.errors import SettingsError
from specs_lightning.groups import Prompt
from specs_lightning.modules import ColdStartModule
from specs_lightning.objectives import SFT
from specs_lightning.policy.loading import PolicySettings
from specs_lightning.prompts.images import load_image
from specs_lightning.prompts.messages import build_messages
from specs_lightning.rollout import SamplingSettings

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


def picture(*halves: tuple[int, int, int], size: tuple[int, int] = (60, 84)) -> bytes:
    image = PIL.Image.new("RGB", size, halves[0])
    image.paste(halves[-1], (0, size[1] // 2, *size))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def prompt(name: str, *images: bytes) -> Prompt:
    return Prompt(name, build_messages("What colour?", len(images)), images, name)


def test_a_blank_image_has_the_size_and_the_mean_colour_of_the_one_it_replaces() -> None:
    blank = load_image(blank_images(prompt("p", picture((200, 0, 0), (100, 50, 0)))).images[0])
    assert blank.size == (60, 84)
    assert blank.getcolors() == [(60 * 84, (150, 25, 0))]


def test_images_are_swapped_among_prompts_with_as_many() -> None:
    one, two, three = (picture(colour) for colour in COLOURS.values())
    prompts = [prompt("a", one), prompt("none"), prompt("b", two), prompt("pair", one, two), prompt("c", three)]
    seen, swapped = swap_images(prompts)
    assert [p.id for p in seen] == [p.id for p in swapped] == ["a", "b", "c"]
    assert [p.images for p in swapped] == [(two,), (three,), (one,)]
    assert [p.answer for p in swapped] == ["a", "b", "c"]


class Looking(ScriptedEngine):
    """Names the colour in the image's middle, grey as blue."""

    def __init__(self, looks: bool) -> None:
        super().__init__(self._say)
        self.looks = looks

    def _say(self, prompt: Prompt, seed: str) -> Sequence[str]:
        if not self.looks:
            return ["Answer: red"]
        pixel = load_image(prompt.images[0]).getpixel((30, 60))
        assert isinstance(pixel, tuple)
        return ["Answer: " + next((name for name, colour in COLOURS.items() if colour == pixel), "unseen")]


def measured(model: Path, folder: Path, sets: dict[str, PromptSource], **settings: Any) -> dict[str, float]:
    module = ColdStartModule(PolicySettings(str(model)), SFT())
    probe = BlankImageProbe(sets, sampling=SamplingSettings(1, 8), **settings)
    trainer = small_trainer(folder, probe, max_steps=1)
    trainer.fit(module, datamodule=PreferenceDataModule(str(write_pair_file(folder)), batch_size=4))
    return {name: round(float(v), 6) for name, v in trainer.callback_metrics.items() if name.startswith("blank_image")}


@pytest.mark.parametrize("looks", [True, False])
def test_what_is_lost_without_the_image(tiny_model_path: Path, tmp_path: Path, looks: bool) -> None:
    rows = []
    for name, colour in COLOURS.items():
        (tmp_path / f"{name}.png").write_bytes(picture((255, 255, 255), colour))
        rows.append({"question": "Which?", "answer": name, "answer_type": "text", "images": [f"{name}.png"]})
    rows.append({"question": "And without an image?", "answer": "red"})
    (tmp_path / "colours.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = measured(
        tiny_model_path, tmp_path, {"c": PromptSource(str(tmp_path / "colours.jsonl"))}, engine=Looking(looks)
    )
    right = 1.0 if looks else round(1 / 3, 6)
    lost = 1.0 if looks else 0.0
    expected = {"seen": right, "blank": right - lost, "swapped": right - lost}
    expected |= {"drop_blank": lost, "drop_swapped": lost}
    assert found == {f"blank_image/c/{name}": value for name, value in expected.items()}


def test_a_set_without_images_is_refused(tiny_model_path: Path, tmp_path: Path) -> None:
    (tmp_path / "plain.jsonl").write_text(json.dumps({"question": "1 + 1?", "answer": "2"}) + "\n")
    with pytest.raises(SettingsError, match="the set plain has no two questions with as many images"):
        measured(tiny_model_path, tmp_path, {"plain": PromptSource(str(tmp_path / "plain.jsonl"))})
