"""`specs data check`: what is said of each row, what is frozen, and that memory does not grow with the rows."""

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import PIL.Image
import pyarrow.parquet as pq
import pytest
from helpers.command_line import ROOT, specs
from transformers import AutoProcessor

from benchmarks.data_check import make_file
from specs_lightning.data.check import check, find_sources, named_sources, spread
from specs_lightning.data.frozen import FROZEN
from specs_lightning.data.sources import PromptSource, load_prompts
from specs_lightning.data.tables import DataError
from specs_lightning.errors import SpecsError
from specs_lightning.prompts.encoder import PromptEncoder
from specs_lightning.prompts.images import load_image
from specs_lightning.prompts.set_aside import SetAside
from specs_lightning.toy import resolve

MATHVISION = ROOT / "../shared/data/mathvision-sample/problems.jsonl"


def png(width: int = 40, height: int = 30) -> bytes:
    file = io.BytesIO()
    PIL.Image.new("RGB", (width, height), "red").save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A training's configuration, over a file of which half of the rows are bad."""
    (tmp_path / "1.png").write_bytes(png())
    (tmp_path / "cut.png").write_bytes(png()[:60])
    good = {
        "question": "How many of <image1> and <image2>?",
        "image": "1.png",
        "answer": "2",
        "level": 3,
        "boxes": [[1]],
    }
    rows = [
        {"id": "a", **good},
        {"id": "a", **good},
        {"id": "b", **good, "image": "cut.png"},
        {"id": "c", **good, "image": "../1.png"},
        {"id": "d", "question": "Which?", "answer": "B", "choices": ["x", "y"], "precision": 2},
        {"id": "e", "question": "<image>Whose?", "image": "1.png", "answer": "Ann's", "answer_type": "text"},
        {"id": "f", "question": "Ends in <|im_end|>?", "answer": "2"},
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    file = tmp_path / "config.yaml"
    source = f"{{path: {tmp_path / 'rows.jsonl'}}}"
    file.write_text(
        f"model: {{init_args: {{policy: {{model: 'toy:base'}}}}}}\ndata: {{init_args: {{train: {source}}}}}\n"
    )
    return file


def test_every_row_is_counted_and_every_bad_one_listed(config: Path, tmp_path: Path, capsys) -> None:
    specs("data", "check", f"--config={config}", f"--output={tmp_path / 'out'}", "--freeze=true")
    found = json.loads((tmp_path / "out" / "check.json").read_text())["sources"]["train"]
    assert (found["rows"], found["usable"]) == (7, 3)
    assert found["refused"] == {
        "duplicate id": 1,
        "truncated image": 1,
        "image path with '..', which might leave the data folder": 1,
        "control token in the text": 1,
    }
    assert found["answer_types"] == {"number": 1, "choice": 1, "text": 1}
    assert found["images"] == {"1": 2, "0": 1}
    assert found["widths"] == {"least": 40, "median": 40, "95 %": 40, "most": 40}
    listed = [json.loads(line) for line in (tmp_path / "out" / "set_aside.jsonl").read_text().splitlines()]
    assert [row["row"] for row in listed] == [2, 3, 4, 7]
    said = capsys.readouterr().out
    assert "row 3: truncated image" in said.replace("\n", "")
    assert said.splitlines()[-2:] == [
        "4 of 7 rows cannot be used: a training leaves them out. Mend them, or go on without",
        f"to train on them: data.train: {{path: {tmp_path / 'out'}, schema: frozen}}",
    ]


def test_frozen_rows_are_the_same_prompts_and_hold_their_images(config: Path, tmp_path: Path) -> None:
    check([str(config)], output=str(tmp_path), freeze=True)
    before = load_prompts(PromptSource(str(tmp_path / "rows.jsonl"), system="Be brief."), SetAside())
    (tmp_path / "1.png").unlink()
    assert pq.read_schema(tmp_path / "train.parquet").names == FROZEN.names
    source = PromptSource(str(tmp_path / "train.parquet"), schema="frozen", system="Be brief.")
    after = load_prompts(source, SetAside())
    for name in ("id", "messages", "answer", "answer_type", "answer_format", "choices", "precision"):
        assert [getattr(p, name) for p in after] == [getattr(p, name) for p in before]
    assert [p.images for p in after] == [(png(),), (), (png(),)]
    assert (after[0].metadata["level"], after[0].metadata["boxes"]) == (3, [[1]])


def test_a_share_is_held_out_and_no_image_stands_on_both_sides(tmp_path: Path) -> None:
    for number in range(40):
        (tmp_path / f"{number}.png").write_bytes(png(number + 1))
    rows = [{"id": f"{i}", "question": "How many?", "answer": "2", "image": f"{i % 40}.png"} for i in range(120)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "c.yaml").write_text(f"charts: {{path: {tmp_path / 'rows.jsonl'}}}")
    for output in ("one", "two"):
        check([str(tmp_path / "c.yaml")], output=str(tmp_path / output), freeze=True, hold_out=0.25)
    sides = {}
    for part in ("train", "held_out"):
        one, two = (
            load_prompts(
                PromptSource(str(tmp_path / output / part), schema="frozen", answer_format="boxed"), SetAside()
            )
            for output in ("one", "two")
        )
        assert [prompt.id for prompt in one] == [prompt.id for prompt in two]
        assert {prompt.answer_format for prompt in one} == {"boxed"}  # the rows name none: the reader chooses
        sides[part] = one
    assert len(sides["train"]) + len(sides["held_out"]) == 120 and 12 <= len(sides["held_out"]) <= 48
    assert not {p.images for p in sides["train"]} & {p.images for p in sides["held_out"]}
    with pytest.raises(DataError, match=r"hold_out 0\.001 takes 0: give another share"):
        check([str(tmp_path / "c.yaml")], output=str(tmp_path), freeze=True, hold_out=0.001)
    with pytest.raises(DataError, match="a share of the rows that are frozen"):
        check([str(tmp_path / "c.yaml")], output=str(tmp_path), hold_out=0.1)


@pytest.mark.parametrize("more", [{"hold_out": 0.5}, {}], ids=["held out", "whole"])
@pytest.mark.parametrize("second", ["nothing.jsonl", "unusable.jsonl"])
def test_a_freeze_that_is_refused_has_written_nothing(tmp_path: Path, second: str, more: dict[str, float]) -> None:
    """Whichever data set is to blame; and what an earlier one wrote stays as it is."""
    rows = [{"id": f"{i}", "question": f"{i}?", "answer": "2"} for i in range(8)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "unusable.jsonl").write_text(json.dumps({"question": "Which?", "image": "missing.png", "answer": "2"}))
    both, first = tmp_path / "both.yaml", tmp_path / "first.yaml"
    first.write_text(f"a: {{path: {tmp_path / 'rows.jsonl'}}}")
    both.write_text(f"{first.read_text()}\nb: {{path: {tmp_path / second}}}")
    with pytest.raises(DataError):
        check([str(both)], output=str(tmp_path / "new" / "out"), freeze=True, **more)
    assert not (tmp_path / "new").exists()

    def content() -> dict[Path, bytes]:
        return {file: file.read_bytes() for file in (tmp_path / "old").rglob("*") if file.is_file()}

    check([str(first)], output=str(tmp_path / "old"), freeze=True, **more)
    before = content()
    assert {file.name for file in before} == {"a.parquet", "check.json"}
    with pytest.raises(DataError):
        check([str(both)], output=str(tmp_path / "old"), freeze=True, **more)
    assert content() == before


def test_images_are_held_out_with_all_their_rows_by_their_pixels_and_over_all_data_sets(tmp_path: Path) -> None:
    """Some rows show two images, which binds others to them; the same picture comes in files of two formats."""
    for number in range(60):
        picture = PIL.Image.new("RGB", (8, 8), (number, 0, 0))
        picture.save(tmp_path / f"{number}.png")
        picture.save(tmp_path / f"{number}.bmp")
    one = [
        {"id": f"{i}", "question": f"{i}?", "answer": "2", "images": [f"{i}.png", f"{i - i % 2}.bmp"]}
        for i in range(60)
    ]
    two = [{"id": f"x{i}", "question": "How many?", "answer": "2", "image": f"{i}.bmp"} for i in range(60)]
    two += [{"id": f"t{i}", "question": f" WHO  is {i % 30}?", "answer": "2"} for i in range(60)]
    for name, rows in {"one": one, "two": two}.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    sources = "\n".join(f"{name}: {{path: {tmp_path / name}.jsonl}}" for name in ("one", "two"))
    (tmp_path / "c.yaml").write_text(sources)
    config = [str(tmp_path / "c.yaml")]
    check(config, output=str(tmp_path / "out"), freeze=True, hold_out=0.3)
    sides = [
        [
            (prompt.text.casefold().split("?")[0], {load_image(image).getpixel((0, 0)) for image in prompt.images})
            for prompt in load_prompts(PromptSource(str(tmp_path / "out" / part), schema="frozen"), SetAside())
        ]
        for part in ("train", "held_out")
    ]
    pixels = [set().union(*(images for _, images in side)) for side in sides]
    texts = [{text for text, images in side if not images} for side in sides]
    assert all(pixels) and all(texts)
    assert not pixels[0] & pixels[1] and not texts[0] & texts[1]
    assert sum(map(len, sides)) == 180
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["check.json", "held_out", "train"]


def test_what_data_sets_share_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, colours in {"train": ("red", "blue", "red"), "benchmark": ("blue", "green", "blue")}.items():
        rows = []
        for number, colour in enumerate(colours):
            form = "png" if name == "train" else "bmp"
            PIL.Image.new("RGB", (8, 8), colour).save(tmp_path / f"{colour}.{form}")
            rows.append({"question": ["Who?", "How many?", "WHO?"][number], "answer": "2", "image": f"{colour}.{form}"})
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    sources = "\n".join(f"{name}: {{path: {tmp_path / name}.jsonl}}" for name in ("train", "benchmark"))
    (tmp_path / "c.yaml").write_text(sources)
    check([str(tmp_path / "c.yaml")], output=str(tmp_path / "out"))
    found = json.loads((tmp_path / "out" / "check.json").read_text())
    assert found["overlaps"] == [
        {"first": "train", "second": "benchmark", "images": 1, "rows": [1, 2], "same": [0, 0]},
    ]
    assert {name: of["repeated"] for name, of in found["sources"].items()} == {"train": 1, "benchmark": 1}
    said = " ".join(capsys.readouterr().out.split())
    assert "train and benchmark: 1 images in both (1 rows of train, 2 of benchmark)" in said
    assert "train: 1 rows repeat another (the same images and question)" in said


def test_a_row_that_the_models_template_refuses_is_set_aside(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(resolve("toy:base"), model)
    template = (model / "chat_template.jinja").read_text()
    once = "{% if messages | length > 1 %}{{ raise_exception('One turn only') }}{% endif %}"
    (model / "chat_template.jinja").write_text(once + template)
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Q?"}]
    rows = [{"question": "Q?", "answer": "2"}, {"messages": turns, "answer": "2"}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "c.yaml").write_text(f"x: {{path: {tmp_path / 'rows.jsonl'}}}")
    check([str(tmp_path / "c.yaml")], model=str(model), output=str(tmp_path / "out"))
    found = json.loads((tmp_path / "out" / "check.json").read_text())["sources"]["x"]
    assert (found["usable"], found["refused"]) == (1, {"refused by the chat template": 1})
    (model / "chat_template.jinja").unlink()
    with pytest.raises(DataError, match=r"the processor of .* cannot be used .*no chat template"):
        check([str(tmp_path / "c.yaml")], model=str(model), output=str(tmp_path / "out"))


@pytest.mark.skipif(not MATHVISION.exists(), reason="the sample of MathVision is not there")
def test_lengths_are_those_of_the_encoded_prompts(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(f"x: {{path: {MATHVISION}, schema: mathvision, limit: 12}}")
    check([str(tmp_path / "c.yaml")], model="toy:base", output=str(tmp_path))
    encoder = PromptEncoder(AutoProcessor.from_pretrained(resolve("toy:base")))
    prompts = load_prompts(PromptSource(str(MATHVISION), schema="mathvision", limit=12), SetAside())
    lengths = [len(encoder.encode(prompt).input_ids) for prompt in prompts]
    found = json.loads((tmp_path / "check.json").read_text())["sources"]["x"]
    assert (found["rows"], found["tokens"]) == (12, spread(lengths))


def test_data_sets_are_found_anywhere_in_a_configuration() -> None:
    settings = {"data": {"train": {"path": "a.jsonl"}, "evaluation": {"id": {"path": "b.jsonl"}}, "more": [1]}}
    assert {place: source.path for place, source in find_sources(settings).items()} == {
        ("data", "train"): "a.jsonl",
        ("data", "evaluation", "id"): "b.jsonl",
    }


def test_data_sets_of_one_name_in_several_files_are_all_read() -> None:
    """Their names say of which file they are; what several files have alike is read once."""
    files = {
        "a/zero.yaml": {"train": {"path": "1"}, "test": {"path": "2"}, "id": {"path": "3"}},
        "b/zero.yaml": {"train": {"path": "4"}, "test": {"path": "2"}},
        "b/final.yaml": {"train": {"path": "5"}, "id": {"path": "6"}, "more": {"id": {"path": "7"}}},
    }
    named = named_sources({Path(file): settings for file, settings in files.items()})
    assert {name: source.path for name, source in named.items()} == {
        "a.zero.train": "1",
        "b.zero.train": "4",
        "final.train": "5",
        "test": "2",
        "zero.id": "3",
        "b.final.id": "6",
        "b.final.more.id": "7",
    }


def test_a_set_with_a_kind_in_its_name_is_frozen_to_one_file(config: Path, tmp_path: Path) -> None:
    rows = str(config.with_name("rows.jsonl"))
    sets = {"formats/boxed": {"path": rows}, "../json": {"path": rows, "answer_format": "json"}}
    (tmp_path / "sets.yaml").write_text(json.dumps({"evaluation": sets}))
    check([str(tmp_path / "sets.yaml")], output=str(tmp_path / "out"), freeze=True)
    assert {file.name for file in (tmp_path / "out").glob("*.parquet")} == {"formats-boxed.parquet", "..-json.parquet"}


def test_files_that_extend_others(config: Path, tmp_path: Path) -> None:
    (tmp_path / "above.yaml").write_text(f"extends: {config}\ndata: {{init_args: {{train: {{limit: 1}}}}}}\n")
    both = [str(config), str(tmp_path / "above.yaml")]
    check(both, output=str(tmp_path / "out"), freeze=True)
    found = json.loads((tmp_path / "out" / "check.json").read_text())["sources"]
    assert {name: of["usable"] for name, of in found.items()} == {"config.train": 3, "above.train": 1}
    assert (tmp_path / "out" / "above.train.parquet").is_file()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1", "no data set in"),
        ("a: [", "c.yaml, line 1: not YAML"),
        ("a: {path: none.jsonl}", "no such file or folder"),
    ],
)
def test_a_configuration_without_usable_data_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(SpecsError, match=problem):
        check([str(tmp_path / "c.yaml")], output=str(tmp_path))


def test_a_mistyped_setting_is_named(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("train: {path: a.jsonl, colums: {}}")
    with pytest.raises(DataError, match=r"train:.*colums"):
        check([str(tmp_path / "c.yaml")], output=str(tmp_path))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    for rows in (100, 800):
        make_file(tmp_path / f"{rows}x192.parquet", rows, 192, "BMP")  # as large as PNG of noise, and read at once
    command = [sys.executable, str(ROOT / "benchmarks/data_check.py"), "--rows", "100", "800", "--pixels=192"]
    done = subprocess.run([*command, f"--folder={tmp_path}"], capture_output=True, text=True, check=True)
    figures = [json.loads(line) for line in done.stdout.splitlines() if line.strip()]
    assert [f["usable"] for f in figures] == [100, 800]
    # the larger file is bigger by far more than memory may grow
    assert figures[1]["file_mib"] - figures[0]["file_mib"] > 60
    assert figures[1]["peak_mib"] - figures[0]["peak_mib"] < 40
