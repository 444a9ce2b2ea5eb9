"""Does the model look? How far its accuracy falls when it cannot see the image."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import PIL.Image
import PIL.ImageStat

from specs_lightning.callbacks import EvaluationCallback, Measured
from specs_lightning.data import PromptSource
from specs_lightning.errors import SettingsError
from specs_lightning.evaluation import Answered
from specs_lightning.groups import Image, Prompt
from specs_lightning.prompts.images import load_image


class BlankImageProbe(EvaluationCallback):
    """Asks the same questions with their images, with blank ones, and with those of another question.

    Logs, as `blank_image/SET/…`, how many answers are right: `seen`, `blank`, `swapped`; and how much is lost:
    `drop_blank`, `drop_swapped`. A model that reads the image loses what it cannot guess from the text. What it keeps
    under `swapped` although the image says otherwise it did not see. Questions without an image are left out, and
    those that no other one has as many images as.

    Args:
        sets: the questions, by the name of their set.
        settings: `every_n_steps`, `sampling`, `engine` and `batch_size`, as every `EvaluationCallback` has them.
    """

    def __init__(self, sets: dict[str, PromptSource], **settings: Any) -> None:
        super().__init__("blank_image", sets, **settings)

    def prepare(self, prompts: dict[str, list[Prompt]]) -> dict[str, list[Prompt]]:
        asked: dict[str, list[Prompt]] = {}
        for name, questions in prompts.items():
            seen, swapped = swap_images(questions)
            if not seen:
                raise SettingsError(f"BlankImageProbe: the set {name} has no two questions with as many images")
            asked |= {f"{name}/seen": seen, f"{name}/blank": [blank_images(prompt) for prompt in seen]}
            asked[f"{name}/swapped"] = swapped
        return asked

    def measure(self, answered: dict[str, list[Answered]]) -> Mapping[str, Measured]:
        rates = {name: float(self.over_ranks([one.answer.correct for one in of])) for name, of in answered.items()}
        drops = {
            f"{name}/drop_{how}": rates[f"{name}/seen"] - rates[f"{name}/{how}"]
            for name in self.sets
            for how in ("blank", "swapped")
        }
        return rates | drops


def blank_images(prompt: Prompt) -> Prompt:
    """The prompt with images of the same sizes that show nothing but their mean colour."""
    return replace(prompt, images=tuple(map(_blank, prompt.images)))


def swap_images(prompts: Sequence[Prompt]) -> tuple[list[Prompt], list[Prompt]]:
    """The prompts that another one has as many images as, and the same with the images of the next such prompt."""
    alike: dict[int, list[Prompt]] = defaultdict(list)
    for prompt in prompts:
        alike[len(prompt.images)].append(prompt)
    seen, swapped = [], []
    for images, group in alike.items():
        if images and len(group) > 1:
            seen += group
            others = group[1:] + group[:1]
            swapped += [replace(own, images=other.images) for own, other in zip(group, others, strict=True)]
    return seen, swapped


def _blank(image: Image) -> bytes:
    picture = load_image(image)
    colour = tuple(round(channel) for channel in PIL.ImageStat.Stat(picture).mean)
    file = io.BytesIO()
    PIL.Image.new("RGB", picture.size, colour).save(file, "PNG")
    return file.getvalue()
