"""The toy's data: the same on every machine, and every gold answer is what the scene shows."""

from __future__ import annotations

import hashlib
import io
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import PIL.Image
import pyarrow.parquet as pq
import pytest

from specs_lightning.data.sources import PromptSource, load_prompts
from specs_lightning.prompts.set_aside import SetAside
from specs_lightning.rewards import is_consistent
from specs_lightning.toy import resolve, scenes
from specs_lightning.toy.scenes import CELLS, COLOURS, DATA_SETS, TASKS, Scene, SceneQuestion, Thing

HASHES: dict[int, dict[str, str]] = {
    1: {
        "train": "93c8aa807dbd6de1",
        "pairs": "95e56119be3b530b",
        "id": "7349b6722bfabae0",
        "ood_boxed": "7e00d24df2a0d8df",
        "ood_json": "5b36423bfa921980",
        "ood_tags": "d22924bc3fca2d0b",
        "ood_new_tags": "5ff7b508681a933d",
        "ood_brackets": "c7317719461ed065",
        "ood_task": "712939de15b4c4c4",
        "ood_column": "e84f045d6ab14f8e",
        "ood_colours": "7e6d7d414330a548",
        "ood_background": "8b8ff42533ef1996",
        "ood_jitter": "ee3b2c637c951b17",
        "dev_id": "6f6cd519314d157e",
        "dev_ood_boxed": "83e5ea1b4a66308a",
        "dev_ood_json": "d9fbb534a38abaad",
        "dev_ood_tags": "60e16c6e976daccc",
        "dev_ood_new_tags": "4d8dfe06df5c1017",
        "dev_ood_brackets": "c9b832cbb2ca7e7e",
        "dev_ood_task": "8c8179de3a9c8e7a",
        "dev_ood_column": "c25b16d0be99c546",
        "dev_ood_colours": "133d1dda0dc1b4c9",
        "dev_ood_background": "bf178d0f21be3939",
        "dev_ood_jitter": "27db98f4dbe13235",
    }
}
"""Of each data set's texts and pixels, by version: whoever changes one raises `scenes.VERSION` and writes them anew."""


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPECS_CACHE", str(folder))
        yield folder


def matching(scene: Scene, words: str) -> int:
    """How many things the words fit, each word a colour or a shape."""
    return sum(thing is not None and set(words.split()) <= set(thing) for thing in scene)


def derive(scene: Scene, question: SceneQuestion) -> str:
    """The answer, from the question's words and the scene alone."""
    text = question.text
    things = [thing for thing in scene if thing is not None]
    if found := re.fullmatch(r"How many things match ([\w ]+)\?", text):
        return str(matching(scene, found[1]))
    if found := re.fullmatch(r"Remove what matches ([\w ]+)\. How many things are left\?", text):
        return str(len(things) - matching(scene, found[1]))
    if found := re.fullmatch(r"Do more things match (\w+) than (\w+)\?", text):
        return "yes" if matching(scene, found[1]) > matching(scene, found[2]) else "no"
    if found := re.fullmatch(r"What is at ([a-c][1-3])\?", text):
        right = " ".join(scene[CELLS.index(found[1])] or ("nothing",))
        return "ABCD"[question.choices.index(right)]
    if found := re.fullmatch(r"How many things are in the (top|middle|bottom) row\?", text):
        first = 3 * ["top", "middle", "bottom"].index(found[1])
        return str(sum(thing is not None for thing in scene[first : first + 3]))
    found = re.fullmatch(r"How many things are in the (left|middle|right) column\?", text)
    assert found is not None, text
    return str(sum(thing is not None for thing in scene[["left", "middle", "right"].index(found[1]) :: 3]))


@pytest.mark.parametrize("task", [*TASKS, *scenes.OTHER_TASKS], ids=lambda task: task.__name__)
def test_every_answer_is_what_the_scene_shows(task: Callable[[Scene, random.Random], SceneQuestion]) -> None:
    rng = random.Random(0)
    for _ in range(400):
        scene = scenes.draw_scene(rng)
        question = task(scene, rng)
        assert question.answer == derive(scene, question), question.text
        assert question.task == task.__name__
        assert question.conclude(question.steps[-1][1]) == question.answer
        reasoning = scenes.reasoning(question)
        assert is_consistent(reasoning, question.answer, question.answer_type, question.choices), reasoning
        if question.choices:
            assert len(set(question.choices)) == 4


USUAL_NAMES = {shade: name for name, shade in COLOURS.items()}


def read_cell(image: PIL.Image.Image, index: int, by_colour: dict[scenes.Colour, str] = USUAL_NAMES) -> Thing | None:
    """What a cell's pixels show: the colour by its hue, the shape by how much of its bounding box it fills."""
    x, y = 28 * (index % 3), 28 * (index // 3)
    cell = image.crop((x, y, x + 28, y + 28))
    inside = [(i % 28, i // 28) for i in range(28 * 28) if cell.getpixel((i % 28, i // 28)) in by_colour]
    if not inside:
        return None
    (colour,) = {by_colour[cell.getpixel(place)] for place in inside}
    columns, rows = zip(*inside, strict=True)
    box = (max(columns) - min(columns) + 1) * (max(rows) - min(rows) + 1)
    filled = len(inside) / box
    return colour, "square" if filled > 0.95 else "circle" if filled > 0.65 else "triangle"


@pytest.mark.parametrize("name", ["ood_colours", "ood_background"])
def test_pictures_of_another_style_show_the_same_scenes(name: str) -> None:
    """In other shades, on another ground; each thing's place, shape and colour are read from the pixels."""
    style = DATA_SETS[name].style
    names = {shade: colour for colour, shade in style.shades.items()}
    usual = scenes.examples(3, 40)
    for (image, _), (expected, _) in zip(scenes.examples(3, 40, None, style), usual, strict=True):
        assert image.getpixel((0, 0)) == style.background
        for index in range(9):
            assert read_cell(image, index, names) == read_cell(expected, index)


def test_a_jittered_picture_is_the_usual_one_moved_and_shows_every_thing() -> None:
    style, rng = DATA_SETS["ood_jitter"].style, random.Random(2)
    shifts = set()
    for seed in range(40):
        scene, luck = scenes.draw_scene(rng), random.Random(seed)
        shift = [luck.randint(-style.shift, style.shift) for _ in range(2)]
        usual, moved = scenes.paint(scene, luck), scenes.paint(scene, random.Random(seed), style)
        x, y = shift
        box = (max(0, x), max(0, y), min(84, 84 + x), min(84, 84 + y))
        assert moved.crop(box).tobytes() == usual.crop((box[0] - x, box[1] - y, box[2] - x, box[3] - y)).tobytes()
        for i, thing in enumerate(scene):
            if thing:
                left, top = 28 * (i % 3) + 9 + x, 28 * (i // 3) + 9 + y
                seen = moved.crop((left, top, left + 11, top + 11)).getcolors() or ()
                assert COLOURS[thing[0]] in {colour for _, colour in seen}
        shifts.add(tuple(shift))
    assert len(shifts) > 20


def test_every_picture_shows_its_scene_and_each_thing_inside_its_cell() -> None:
    rng = random.Random(1)
    for _ in range(60):
        scene = scenes.draw_scene(rng)
        image = scenes.paint(scene, rng)
        assert image.size == (84, 84)
        assert tuple(read_cell(image, index) for index in range(9)) == scene


class TestDataSets:
    def rows(self, name: str) -> list[dict[str, object]]:
        return pq.read_table(resolve(f"toy:{name}")).to_pylist()

    def test_they_follow_from_the_seed_alone(self, tmp_path: Path) -> None:
        random.seed(5)
        scenes.write_data_set("id", tmp_path / "id.parquet")
        assert pq.read_table(tmp_path / "id.parquet").to_pylist() == self.rows("id")

    @pytest.mark.parametrize("name", DATA_SETS)
    def test_the_same_version_is_the_same_data(self, name: str) -> None:
        digest = hashlib.sha256()
        for row in self.rows(name):
            image = row.pop("image")
            digest.update(json.dumps(row, sort_keys=True).encode())
            digest.update(PIL.Image.open(io.BytesIO(image["bytes"])).tobytes())  # type: ignore[index]
        assert digest.hexdigest()[:16] == HASHES[scenes.VERSION][name]

    def test_they_are_as_large_as_they_say_and_usable_to_the_last_row(self) -> None:
        for name, settings in DATA_SETS.items():
            set_aside = SetAside()
            prompts = load_prompts(PromptSource(f"toy:{name}"), set_aside, thorough=name == "id")
            assert len(prompts) == settings.size and not set_aside.rows
            assert {prompt.answer_format for prompt in prompts} == {settings.answer_format}
            tasks = (settings.task,) if settings.task else TASKS
            assert Counter(prompt.metadata["task"] for prompt in prompts) == {
                task.__name__: settings.size // len(tasks) for task in tasks
            }

    def test_each_set_out_of_distribution_differs_in_one_respect(self) -> None:
        """All show the same scenes; what the respect is, its name says."""
        formats = dict.fromkeys(["boxed", "json", "tags", "new_tags", "brackets"], "answer_format")
        differing = formats | {"task": "question", "column": "question"}
        usual = self.rows("id")
        for name in DATA_SETS:
            if not name.startswith("ood_"):
                continue
            differs = differing.get(name.removeprefix("ood_"), "image")
            for row, expected in zip(self.rows(name), usual, strict=True):
                assert row["id"] == expected["id"]
                for column in ("question", "image", "answer_format"):
                    assert (row[column] == expected[column]) == (column != differs), (name, column)
                if differs != "question":
                    assert row["answer"] == expected["answer"]

    @pytest.mark.parametrize("name", ["ood_task", "ood_column"])
    def test_a_task_that_no_training_asks_for(self, name: str) -> None:
        trained = {row["task"] for name in ("train", "pairs", "id") for row in self.rows(name)}
        assert {row["task"] for row in self.rows(name)}.isdisjoint(trained)

    @pytest.mark.parametrize("name", ["ood_boxed", "ood_json", "ood_tags", "ood_new_tags", "ood_brackets"])
    def test_a_format_that_no_training_asks_for(self, name: str) -> None:
        trained = {row["answer_format"] for name in ("train", "pairs", "id") for row in self.rows(name)}
        assert {row["answer_format"] for row in self.rows(name)}.isdisjoint(trained)

    def test_nothing_that_is_evaluated_is_trained_on(self) -> None:
        def pictures(name: str) -> set[str]:
            return {hashlib.sha256(row["image"]["bytes"]).hexdigest() for row in self.rows(name)}  # type: ignore[index]

        assert not pictures("id") & (pictures("train") | pictures("pairs"))

    def test_images_are_stored_as_png(self) -> None:
        image = self.rows("id")[0]["image"]
        assert PIL.Image.open(io.BytesIO(image["bytes"])).format == "PNG"  # type: ignore[index]


class TestNames:
    def test_they_are_resolved_and_written_once(self, cache: Path) -> None:
        file = resolve("toy:id")
        assert file == cache / f"toy-v{scenes.VERSION}" / "id.parquet"
        written = Path(file).stat().st_mtime_ns
        assert resolve("toy:id") == file and Path(file).stat().st_mtime_ns == written
        assert [p.name for p in Path(file).parent.iterdir() if not p.name.endswith(".parquet")] == []

    def test_the_base_model_comes_with_the_package(self) -> None:
        assert Path(resolve("toy:base")).parts[-3:] == ("specs_lightning", "toy", "base_model")

    def test_other_paths_stay_as_they_are(self) -> None:
        assert resolve("data/x.jsonl") == "data/x.jsonl"
        assert resolve(Path("x")) == Path("x")

    def test_an_unknown_name_is_told_with_those_there_are(self) -> None:
        with pytest.raises(ValueError, match=r"unknown toy resource 'toy:trian'.*toy:base, toy:train"):
            resolve("toy:trian")
