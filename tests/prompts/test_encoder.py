import io
from itertools import groupby
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from specs_lightning.groups import Prompt
from specs_lightning.prompts.encoder import PromptEncoder, PromptTooLong
from specs_lightning.prompts.image_tensors import ImageTensors
from specs_lightning.prompts.images import BadImage
from specs_lightning.prompts.messages import Turn, build_messages, lay_out, message_turns
from specs_lightning.scoring.answer_formats import FORMATS

IMAGE = {"type": "image"}
INSTRUCTION = FORMATS["think_answer"].instruction


def text(value: str) -> dict[str, str]:
    return {"type": "text", "text": value}


def content(question: str, n_images: int, **options: Any) -> list[dict[str, str]]:
    messages = build_messages(question, n_images, add_instruction=False, **options)
    assert [message["role"] for message in messages] == ["user"]
    return messages[0]["content"]


def png(width: int = 70, height: int = 90, colour: str = "red") -> bytes:
    file = io.BytesIO()
    PIL.Image.new("RGB", (width, height), colour).save(file, "PNG")
    return file.getvalue()


class TestMessages:
    @pytest.mark.parametrize("placeholder", ["<image>", "<image1>", "<image 1>", "<image_1>"])
    def test_an_image_stands_at_its_placeholder(self, placeholder: str) -> None:
        assert content(f"Look: {placeholder} What is it?", 1) == [text("Look: "), IMAGE, text(" What is it?")]

    def test_images_without_placeholder_come_first(self) -> None:
        assert content("Is <image2> red?", 3) == [IMAGE, IMAGE, text("Is "), IMAGE, text(" red?")]
        assert lay_out([Turn("user", "Is <image2> red?")], 3).image_order == (0, 2, 1)

    def test_unnumbered_placeholders_take_the_images_that_no_number_takes(self) -> None:
        layout = lay_out([Turn("user", "<image> then <image1>, <image>")], 3)
        assert layout.image_order == (1, 0, 2)

    def test_numbers_out_of_order_reorder_the_images(self) -> None:
        assert lay_out([Turn("user", "<image 2> after <image 1>")], 2).image_order == (1, 0)

    def test_a_second_mention_becomes_words(self) -> None:
        assert content("<image1> vs <image2>: is <image1> bigger?", 2) == [
            IMAGE,
            text(" vs "),
            IMAGE,
            text(": is image 1 bigger?"),
        ]

    @pytest.mark.parametrize(
        ("question", "n_images"), [("<image>", 0), ("<image><image>", 1), ("<image2>", 1), ("<image0>", 1)]
    )
    def test_more_placeholders_than_images_are_refused(self, question: str, n_images: int) -> None:
        with pytest.raises(ValueError, match="more image placeholders than images"):
            build_messages(question, n_images)

    def test_several_figures_on_the_only_image_keep_their_names(self) -> None:
        turns = [Turn("user", "Fold <image1> into <image2>.")]
        assert lay_out(turns, 1, sheet=True).messages[0]["content"] == [IMAGE, text("Fold <image1> into <image2>.")]
        with pytest.raises(ValueError, match="more image placeholders"):
            lay_out(turns, 1)

    def test_a_sheet_with_one_figure_is_an_image_like_any_other(self) -> None:
        turns = [Turn("user", "See <image1>")]
        assert lay_out(turns, 1, sheet=True) == lay_out(turns, 1)

    def test_unnumbered_placeholders_never_share_an_image(self) -> None:
        with pytest.raises(ValueError, match="more image placeholders"):
            lay_out([Turn("user", "<image> and <image>")], 1, sheet=True)

    def test_choices_are_lettered_lines_and_the_instruction_comes_last(self) -> None:
        (message,) = build_messages("Which?\n", 0, ["red", "blue"])
        assert message["content"] == [text(f"Which?\n(A) red\n(B) blue\n{INSTRUCTION}")]

    def test_choices_may_be_images(self) -> None:
        assert content("Which?", 2, choices=["<image 1>", "<image 2>"]) == [
            text("Which?\n(A) "),
            IMAGE,
            text("\n(B) "),
            IMAGE,
        ]

    @pytest.mark.parametrize("name", FORMATS)
    def test_every_format_is_asked_for_on_a_line_of_its_own(self, name: str) -> None:
        (message,) = build_messages("2+2?", 0, answer_format=name)
        assert message["content"][-1]["text"].split("\n")[-1] == FORMATS[name].instruction

    def test_the_system_message_stands_first(self) -> None:
        system, user = build_messages("<image>Why?", 1, system="Be brief.")
        assert system == {"role": "system", "content": [text("Be brief.")]}
        assert user["content"][0] == IMAGE

    @pytest.mark.parametrize("token", ["<|image_pad|>", "<|vision_start|>", "<|im_end|>", "<|image_1|>"])
    def test_control_tokens_are_refused_wherever_they_stand(self, token: str) -> None:
        for refused in (
            lambda: build_messages(f"What is {token}?", 0),
            lambda: build_messages("What?", 0, [f"a {token}"]),
            lambda: build_messages("What?", 0, system=token),
        ):
            with pytest.raises(ValueError, match="control token"):
                refused()

    def test_absolute_values_are_no_control_tokens(self) -> None:
        assert content("Solve 0<|x|<2, 1<|y|>0", 0) == [text("Solve 0<|x|<2, 1<|y|>0")]

    def test_more_choices_than_letters_are_refused(self) -> None:
        with pytest.raises(ValueError, match="too many choices"):
            build_messages("Which?", 0, ["x"] * 27)

    def test_an_unknown_format_is_refused(self) -> None:
        with pytest.raises(ValueError, match="unknown answer format"):
            build_messages("What?", 0, answer_format="xml")


class TestConversations:
    def test_texts_and_parts_read_the_same(self) -> None:
        as_text = [{"role": "user", "content": "Look <image> here"}]
        parts = [text("Look "), {"type": "image", "text": None}, text(" here")]
        as_parts = [{"role": "user", "content": parts}]
        turns = message_turns(as_text, "boxed", None, False)
        assert turns == message_turns(as_parts, "boxed", None, False) == [Turn("user", "Look <image> here")]

    def test_the_instruction_ends_the_last_message_and_images_open_the_first_of_the_user(self) -> None:
        messages = [
            {"role": "system", "content": "S"},
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "two"},
            {"role": "user", "content": "three"},
        ]
        laid_out = lay_out(message_turns(messages, "think_answer", "not used", True), 1).messages
        assert [m["content"] for m in laid_out] == [
            [text("S")],
            [IMAGE, text("one")],
            [text("two")],
            [text(f"three\n{INSTRUCTION}")],
        ]

    @pytest.mark.parametrize(
        "messages",
        [
            [],
            "hello",
            ["hello"],
            [{"content": "hello"}],
            [{"role": "user", "content": None}],
            [{"role": "user", "content": ["hello"]}],
            [{"role": "user", "content": [{"type": "text", "text": None}]}],
            [{"role": "user", "content": [{"type": "video"}]}],
            [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
        ],
    )
    def test_what_is_no_conversation_is_refused(self, messages: Any) -> None:
        with pytest.raises(ValueError, match="message"):
            message_turns(messages, "boxed", None, True)


@pytest.fixture(scope="module")
def processor(tiny_model_path: Path) -> Any:
    return AutoProcessor.from_pretrained(tiny_model_path)


def prompt(question: str = "How many <image> and <image>?", n_images: int = 2, id: str = "p") -> Prompt:
    return Prompt(id, build_messages(question, n_images), tuple(png(70, 60 + 30 * i) for i in range(n_images)))


class TestEncoding:
    def test_every_image_has_as_many_tokens_as_features(self, processor: Any) -> None:
        encoded = PromptEncoder(processor).encode(prompt())
        grid = encoded.vision["image_grid_thw"]
        assert encoded.input_ids.ndim == 1
        assert set(encoded.vision) == {"pixel_values", "image_grid_thw"}
        assert grid.shape == (2, 3)
        assert grid[0].prod() < grid[1].prod()
        assert (encoded.input_ids == processor.image_token_id).sum() == grid.prod(-1).sum() // 4
        assert encoded.vision["pixel_values"].shape[0] == grid.prod(-1).sum()

    def test_a_prompt_without_images_has_no_vision(self, processor: Any) -> None:
        encoded = PromptEncoder(processor).encode(prompt("2+2?", 0))
        assert encoded.vision == {}
        wanted = f"<|im_start|>user\n2+2?\n{INSTRUCTION}<|im_end|>\n<|im_start|>assistant\n"
        assert processor.tokenizer.decode(encoded.input_ids) == wanted

    def test_the_model_takes_what_was_encoded(self, tiny_model_path: Path, processor: Any) -> None:
        model = AutoModelForImageTextToText.from_pretrained(tiny_model_path)
        for question, n_images in (("<image>, <image>?", 2), ("?", 0)):
            encoded = PromptEncoder(processor).encode(prompt(question, n_images))
            kinds = (encoded.input_ids == processor.image_token_id).long()[None]
            with torch.no_grad():
                output = model(input_ids=encoded.input_ids[None], mm_token_type_ids=kinds, **encoded.vision)
            assert output.logits.shape == (1, len(encoded), len(processor.tokenizer))
            assert output.logits.isfinite().all()

    def test_a_prompt_over_the_limit_is_refused_and_never_cut(self, processor: Any) -> None:
        length = len(PromptEncoder(processor).encode(prompt()))
        assert len(PromptEncoder(processor, length).encode(prompt())) == length
        with pytest.raises(PromptTooLong, match=f"longer than {length - 1} tokens: prompt p has {length}"):
            PromptEncoder(processor, length - 1).encode(prompt())

    def test_bad_images_name_the_prompt(self, processor: Any, tmp_path: Path) -> None:
        messages = build_messages("?", 2)
        with pytest.raises(BadImage, match=r"missing image file: .*none\.png, image 2 of prompt q7"):
            PromptEncoder(processor).encode(Prompt("q7", messages, (png(), tmp_path / "none.png")))
        with pytest.raises(BadImage, match=r"refused by the processor: prompt q7.*aspect ratio"):
            PromptEncoder(processor).encode(Prompt("q7", messages, (png(), png(4, 900))))

    def test_images_and_parts_must_agree_in_number(self, processor: Any) -> None:
        with pytest.raises(ValueError, match="1 images and 2 image parts"):
            PromptEncoder(processor).encode(Prompt("p", build_messages("?", 2), (png(),)))

    def test_special_tokens_in_texts_are_refused(self, processor: Any) -> None:
        encoder = PromptEncoder(processor)
        messages = ({"role": "user", "content": "a <|image_pad|> b"},)
        with pytest.raises(ValueError, match=r"special token.*<\|image_pad\|>"):
            encoder.encode(Prompt("p", messages))
        with pytest.raises(ValueError, match=r"special token.*<\|vision_start\|>"):
            encoder.encode_completion("a <|vision_start|>")

    def test_a_completion_ends_its_turn_and_decodes_to_its_text(self, processor: Any) -> None:
        encoder = PromptEncoder(processor)
        written = "<think>Zwölf · 3?\n\n  Yes</think><answer>36</answer>"
        ids = encoder.encode_completion(written)
        assert ids[-1] == processor.tokenizer.eos_token_id
        assert ids.count(processor.tokenizer.eos_token_id) == 1
        assert encoder.decode(ids) == encoder.decode(torch.tensor(ids)) == written

    @pytest.mark.parametrize("n_images", [0, 1, 3])
    def test_template_ids_have_one_placeholder_where_input_ids_have_an_image(
        self, processor: Any, n_images: int
    ) -> None:
        encoder, asked = PromptEncoder(processor), prompt("Which?", n_images)
        placeholder = processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
        template, expanded = encoder.template_ids(asked), encoder.encode(asked).input_ids.tolist()
        assert template.count(placeholder) == n_images
        assert [i for i, _ in groupby(expanded)] == [i for i, _ in groupby(template)]
        assert expanded.count(placeholder) >= 4 * n_images

    def test_a_prompt_is_encoded_once_while_it_is_held_or_of_recent_use(self, processor: Any) -> None:
        encoder = PromptEncoder(processor)
        first = encoder.encode(prompt("How many?", 1, "a"))
        assert encoder.encode(prompt("How many?", 1, "a")) is first
        pixels = first.vision["pixel_values"]
        del first
        assert encoder.encode(prompt("How many?", 1, "a")).vision["pixel_values"] is pixels

    def test_images_beyond_the_memory_are_made_again_and_are_the_same(self, processor: Any) -> None:
        encoder = PromptEncoder(processor, image_memory_gib=0)  # the latest are kept in any case
        one, two = (encoder.encode(prompt("How many?", 1, id)) for id in "ab")
        assert isinstance(one.vision, ImageTensors) and isinstance(two.vision, ImageTensors)
        assert one.vision.kept is None and two.vision.kept is not None
        again = PromptEncoder(processor).encode(prompt("How many?", 1, "a"))
        torch.testing.assert_close(dict(one.vision), dict(again.vision), rtol=0, atol=0)
        assert one.vision.kept is not None and two.vision.kept is None

    def test_an_image_that_is_gone_when_it_is_needed_again_is_told(self, processor: Any, tmp_path: Path) -> None:
        file = tmp_path / "image.png"
        file.write_bytes(png())
        encoder = PromptEncoder(processor, image_memory_gib=0)
        one = encoder.encode(Prompt("p", build_messages("?", 1), (file,)))
        encoder.encode(prompt("How many?", 1, "another"))
        file.unlink()
        with pytest.raises(BadImage, match="image 1 of prompt p"):
            one.vision["pixel_values"]

    def test_the_cache_tells_prompts_of_the_same_id_apart(self, processor: Any) -> None:
        encoder = PromptEncoder(processor)
        messages = build_messages("?", 1)
        one, two = (encoder.encode(Prompt("p", messages, (png(colour=c),))) for c in ("red", "blue"))
        assert not torch.equal(one.vision["pixel_values"], two.vision["pixel_values"])
        assert len(encoder.encode(Prompt("p", build_messages("Longer?", 1), (png(),)))) > len(one)

    def test_a_template_that_writes_the_first_token_does_not_get_it_twice(self, processor: Any) -> None:
        class WithBos:
            """A processor whose template and tokenizer both write the first token, as Llama's and Gemma's do."""

            tokenizer = processor.tokenizer

            def __init__(self) -> None:
                self.options: dict[str, Any] = {}

            def apply_chat_template(self, *args: Any, **options: Any) -> str:
                return "<|im_start|>" + str(processor.apply_chat_template(*args, **options))

            def __call__(self, **options: Any) -> Any:
                self.options = options
                return processor(**options)

        with_bos: Any = WithBos()
        encoder = PromptEncoder(with_bos)
        assert "add_special_tokens" not in _options(encoder, with_bos)
        processor.tokenizer.bos_token = "<|im_start|>"
        try:
            assert _options(encoder, with_bos)["add_special_tokens"] is False
        finally:
            processor.tokenizer.bos_token = None

    @pytest.mark.parametrize("options", [{"max_prompt_tokens": 0}, {"image_memory_gib": -1}])
    def test_sizes_out_of_range_are_refused(self, processor: Any, options: dict[str, float]) -> None:
        with pytest.raises(ValueError):
            PromptEncoder(processor, **options)


def _options(encoder: PromptEncoder, processor: Any) -> dict[str, Any]:
    encoder.encode(prompt("2+2?", 0, id=str(processor.tokenizer.bos_token)))
    return processor.options
