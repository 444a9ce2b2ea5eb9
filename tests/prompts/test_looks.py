import io
import random

import numpy as np
import PIL.Image
import pytest

from specs_lightning.prompts.images import BadImage, load_image, png
from specs_lightning.prompts.looks import LOOKS, NOISE, alter
from specs_lightning.toy import scenes

SCENE = (("red", "circle"), None, ("blue", "square"), *[None] * 5, ("yellow", "square"))


def picture() -> PIL.Image.Image:
    return scenes.paint(SCENE, random.Random(0))


def shades(content: bytes) -> np.ndarray:
    return np.asarray(PIL.Image.open(io.BytesIO(content)), dtype=int)


@pytest.mark.parametrize("looks", LOOKS)
def test_an_image_looks_different_keeps_its_size_and_is_the_same_each_time(looks: str) -> None:
    image = png(picture())
    altered = alter(image, looks)
    assert altered == alter(image, looks)
    assert load_image(altered).size == picture().size
    assert np.abs(shades(altered) - shades(image)).mean() > 0.5


@pytest.mark.parametrize("looks", LOOKS)
def test_nothing_moves(looks: str) -> None:
    before, after = shades(png(picture())).mean(-1), shades(alter(png(picture()), looks)).mean(-1)
    inside = {name: slice(28 * row + 11, 28 * row + 17) for name, row in (("top", 0), ("bottom", 2))}
    for name in inside:  # each thing still differs from the empty cell beside it
        thing, beside = before[inside[name], inside[name]], before[inside[name], 39:45]
        assert abs(thing.mean() - beside.mean()) > 20
        assert abs(after[inside[name], inside[name]].mean() - after[inside[name], 39:45].mean()) > 10


def test_each_does_what_it_says() -> None:
    plain = shades(png(picture()))
    corner = (slice(0, 3), slice(0, 3))
    assert np.ptp(shades(alter(png(picture()), "grey")), axis=-1).max() == 0
    assert (shades(alter(png(picture()), "inverted")) == 255 - plain).all()
    assert shades(alter(png(picture()), "dim"))[corner].mean() == pytest.approx(plain[corner].mean() / 2, abs=1)
    grey = png(PIL.Image.new("RGB", (100, 100), (128, 128, 128)))
    assert shades(alter(grey, "noisy")).std() == pytest.approx(NOISE, rel=0.05)
    assert shades(alter(grey, "noisy")).mean() == pytest.approx(128, abs=0.5)


def test_an_image_of_one_pixel_is_altered_too() -> None:
    for looks in LOOKS:
        assert load_image(alter(png(PIL.Image.new("RGB", (1, 1), "red")), looks)).size == (1, 1)


def test_a_broken_image_is_named() -> None:
    with pytest.raises(BadImage, match="truncated"):
        alter(png(picture())[:300], "dim")
