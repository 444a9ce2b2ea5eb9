"""Looks: images as training never showed them, for sets that are out of distribution by what they look like.

None moves anything, so that answers (boxes, too) stay right. Colours stay apart but in `grey`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
import PIL.Image
from PIL import ImageEnhance, ImageFilter, ImageOps

from specs_lightning.groups import Image
from specs_lightning.prompts.images import load_image, png

NOISE = 25.0
"""Standard deviation, of 255 shades."""


def _coarse(picture: PIL.Image.Image) -> PIL.Image.Image:
    """Half of the resolution, at the size that it had."""
    width, height = picture.size
    small = picture.resize((max(1, width // 2), max(1, height // 2)), PIL.Image.Resampling.BOX)
    return small.resize(picture.size, PIL.Image.Resampling.BICUBIC)


def _noisy(picture: PIL.Image.Image) -> PIL.Image.Image:
    """Gaussian noise, which follows from the picture."""
    shades = np.asarray(picture, dtype=np.float64)
    noise = np.random.default_rng(zlib.crc32(picture.tobytes())).normal(0, NOISE, shades.shape)
    return PIL.Image.fromarray((shades + noise).round().clip(0, 255).astype(np.uint8))


LOOKS: dict[str, Callable[[PIL.Image.Image], PIL.Image.Image]] = {
    "blurred": lambda picture: picture.filter(ImageFilter.GaussianBlur(max(1.0, max(picture.size) / 250))),
    "coarse": _coarse,
    "dim": lambda picture: ImageEnhance.Brightness(picture).enhance(0.5),
    "grey": lambda picture: ImageOps.grayscale(picture).convert("RGB"),
    "inverted": ImageOps.invert,
    "noisy": _noisy,
}
"""By name, what each makes of a picture in RGB."""


def alter(image: Image, looks: str) -> bytes:
    """The image with these looks, as PNG of the same size; `BadImage` if it cannot be read."""
    return png(LOOKS[looks](load_image(image)))
