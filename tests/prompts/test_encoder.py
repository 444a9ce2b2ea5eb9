"""What a model takes is its own processor's, images with as many tokens as they have features."""

import copy
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from helpers.questions import png, prompt
from transformers import AutoModelForImageTextToText, AutoProcessor

from specs_lightning.errors import SettingsError
from specs_lightning.groups import Prompt
from specs_lightning.policy.loading import PolicySettings
from specs_lightning.policy.policy import Policy
from specs_lightning.policy.processors import TextProcessor
from specs_lightning.prompts.encoder import PromptEncoder, PromptTooLong, RefusedPrompt, encode_all
from specs_lightning.prompts.images import BadImage, load_image
from specs_lightning.prompts.messages import build_messages
from specs_lightning.prompts.set_aside import SetAside
from specs_lightning.scoring.answer_formats import FORMATS

INSTRUCTION = FORMATS["think_answer"].instruction


@pytest.fixture(scope="module")
def processor(tiny_model_path: Path) -> Any:
    return AutoProcessor.from_pretrained(tiny_model_path)


ALTERNATING = """{% for m in messages %}
{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}
{%- for part in m['content'] %}{{ part if part is string else part['text'] }}{% endfor %}{% endfor %}"""


@pytest.fixture
def templated(processor: Any) -> Any:
    """The processor with another template."""

    def with_template(template: str | None) -> Any:
        other = copy.copy(processor)
        other.chat_template = template
        return other

    return with_template


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

    @pytest.mark.parametrize(
        "turns",
        [
            [("user", "Look."), ("user", "Q?")],
            [("system", "Be brief."), ("user", "Q?")],
        ],
    )
    def test_what_a_template_refuses_is_one_prompts_matter(self, templated: Any, turns: list[tuple[str, str]]) -> None:
        encoder = PromptEncoder(templated(ALTERNATING))
        good = prompt("Q?", 0)
        bad = Prompt("bad", tuple({"role": role, "content": text} for role, text in turns), metadata=good.metadata)
        with pytest.raises(RefusedPrompt, match=r"the chat template: prompt bad \(TemplateError: .*alternate"):
            encoder.length(bad, [])
        set_aside, place = SetAside(), {"source_file": "f", "source_row": 1}
        encoded = encode_all(encoder, [replace(bad, metadata=place), replace(good, metadata=place)], set_aside)
        assert [one.id for one in encoded] == [good.id]
        assert [row.kind for row in set_aside.rows] == ["refused by the chat template"]

    def test_a_part_that_is_no_image_is_refused_by_name(self, processor: Any) -> None:
        parts = [{"type": "video"}, {"type": "text", "text": "What happens?"}]
        with pytest.raises(RefusedPrompt, match="video, only texts and images are read: prompt p"):
            PromptEncoder(processor).encode(Prompt("p", ({"role": "user", "content": parts},)))

    def test_half_a_character_is_one_prompts_matter(self, processor: Any) -> None:
        encoder = PromptEncoder(processor)
        with pytest.raises(RefusedPrompt, match="text refused by the tokenizer: prompt p"):
            encoder.encode(Prompt("p", ({"role": "user", "content": "a \ud83d b"},)))
        with pytest.raises(RefusedPrompt, match="text refused by the tokenizer: completion"):
            encoder.encode_completion("a \ud83d b")

    @pytest.mark.parametrize(
        ("template", "problem"),
        [
            (None, "no chat template that can be used .*put its chat_template.jinja into the model's folder"),
            ("{{ 1 / 0 }}", r"no chat template that can be used \(ZeroDivisionError"),
            ("{% for m in messages %}{{ m['content'] }}{% endfor %}", "prints them as a Python list: put"),
            ("{% for m in messages %}{{ m['content'] | tojson }}{% endfor %}", "prints them as a Python list: put"),
            ("{% for m in messages %}<{{ m['role'] }}>{% endfor %}", "does not read messages of parts"),
        ],
    )
    def test_a_model_without_a_usable_template_is_refused_at_once(
        self, templated: Any, template: str | None, problem: str
    ) -> None:
        with pytest.raises(SettingsError, match=problem):
            PromptEncoder(templated(template))

    @pytest.mark.parametrize("options", [{"max_prompt_tokens": 0}, {"image_memory_gib": -1}])
    def test_sizes_out_of_range_are_refused(self, processor: Any, options: dict[str, float]) -> None:
        with pytest.raises(ValueError):
            PromptEncoder(processor, **options)


def _options(encoder: PromptEncoder, processor: Any) -> dict[str, Any]:
    encoder.encode(prompt("2+2?", 0, id=str(processor.tokenizer.bos_token)))
    return processor.options


TEXTS = "{% for m in messages %}{% for part in m['content'] %}{{ part['text'] }}{% endfor %}{% endfor %}"


SILENCED = "assistant\n<think>\n\n</think>\n\n"


class TestTemplateArguments:
    """Templates may be told more than the messages; what they then write is transformers' own."""

    SILENT: ClassVar = {"enable_thinking": False}

    @pytest.fixture(scope="class")
    def processor(self, switching_model_path: Path) -> Any:
        return AutoProcessor.from_pretrained(switching_model_path)

    @pytest.mark.parametrize("arguments", [{}, {"enable_thinking": True}, SILENT])
    @pytest.mark.parametrize("images", [0, 2])
    def test_a_prompt_is_what_transformers_makes_of_it(
        self, processor: Any, arguments: dict[str, Any], images: int
    ) -> None:
        asked = prompt("How many?", images)
        shown = iter([load_image(image) for image in asked.images])
        messages = copy.deepcopy(list(asked.messages))
        for part in messages[0]["content"]:
            part.update({"image": next(shown)} if part["type"] == "image" else {})
        options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
        expected = processor.apply_chat_template(messages, **options, **arguments)
        encoded = PromptEncoder(processor, chat_template_kwargs=arguments).encode(asked)
        assert encoded.input_ids.tolist() == expected["input_ids"][0].tolist()
        assert processor.tokenizer.decode(encoded.input_ids).endswith(SILENCED) == (arguments == self.SILENT)
        if images:
            assert torch.equal(encoded.vision["pixel_values"], expected["pixel_values"])

    def test_engines_that_expand_images_themselves_get_the_same(self, processor: Any) -> None:
        encoder, asked = PromptEncoder(processor, chat_template_kwargs=self.SILENT), prompt("Which?", 2)
        expanded = encoder.encode(asked).input_ids.tolist()
        assert [i for i, _ in groupby(expanded)] == [i for i, _ in groupby(encoder.template_ids(asked))]
        assert encoder.length(asked, [(70, 60), (70, 90)]) == len(expanded)

    @pytest.mark.parametrize("name", ["enable_thinkng", "add_generation_prompt", "tokenize", "messages"])
    @pytest.mark.bad_input("settings")
    def test_an_argument_that_the_template_does_not_read_or_that_is_not_the_users_is_refused(
        self, processor: Any, name: str
    ) -> None:
        """It would change nothing, without a word."""
        with pytest.raises(SettingsError, match=f"the model's chat template has no argument {name};"):
            PromptEncoder(processor, chat_template_kwargs={**self.SILENT, name: False})

    def test_a_text_models_template_is_told_too(self, processor: Any) -> None:
        tokenizer = copy.deepcopy(processor.tokenizer)
        tokenizer.chat_template = processor.chat_template
        encoder = PromptEncoder(TextProcessor(tokenizer), chat_template_kwargs=self.SILENT)  # type: ignore[arg-type]
        assert tokenizer.decode(encoder.template_ids(prompt("How many?", 0))).endswith(SILENCED)

    def test_the_policys_own_are_those_of_every_prompt(self, switching_model_path: Path) -> None:
        policy = Policy(PolicySettings(str(switching_model_path), chat_template_kwargs=self.SILENT))
        for encoded in (policy.encoder().encode(prompt()), policy.dummy_prompt(with_image=True)):
            assert policy.tokenizer.decode(encoded.input_ids).endswith(SILENCED)


class TestOpenedTag:
    """A template may open a reasoning tag for the model: the prompt knows, and no completion has it again."""

    @pytest.fixture(scope="class")
    def encoder(self, thinking_model_path: Path) -> PromptEncoder:
        return PromptEncoder(AutoProcessor.from_pretrained(thinking_model_path))

    @pytest.mark.parametrize("images", [0, 2])
    def test_the_prompt_knows_what_it_ends_in(self, encoder: PromptEncoder, images: int) -> None:
        encoded = encoder.encode(prompt("How many?", images))
        assert encoded.opened == "<think>\n"
        assert encoder.decode(encoded.input_ids).endswith("assistant\n<think>\n")
        assert encoded.to(torch.device("meta")).opened == "<think>\n"

    def test_other_templates_open_none_whatever_the_question_ends_in(self, processor: Any) -> None:
        question = Prompt("p", ({"role": "user", "content": "What does HTML make of <think>"},))
        assert PromptEncoder(processor).encode(question).opened == ""
        bare = AutoProcessor.from_pretrained(processor.tokenizer.name_or_path)
        bare.chat_template = TEXTS
        assert PromptEncoder(bare).encode(question).opened == ""

    @pytest.mark.parametrize("ending", ["<|im_start|>assistant\n<think>\n\n</think>\n\n", "<|im_start|><assistant>"])
    def test_a_tag_that_is_closed_again_or_is_a_role_is_none(self, processor: Any, ending: str) -> None:
        other = AutoProcessor.from_pretrained(processor.tokenizer.name_or_path)
        other.chat_template = TEXTS + "{% if add_generation_prompt %}" + ending + "{% endif %}"
        question = Prompt("p", ({"role": "user", "content": "How many?"},))
        assert PromptEncoder(other).encode(question).opened == ""

    @pytest.mark.parametrize(
        "response", ["<think>so 5</think>5", "<think>\nso 5</think>5", "<think>\n\nso 5</think>5", "so 5</think>5"]
    )
    def test_a_row_holds_it_once(self, encoder: PromptEncoder, response: str) -> None:
        opened = encoder.encode(prompt("How many?", 0)).opened
        row = opened + encoder.decode(encoder.encode_completion(response, opened))
        assert row.count("<think>") == 1
        assert row.replace("\n", "") == "<think>so 5</think>5"

    def test_without_one_nothing_is_taken_away(self, encoder: PromptEncoder) -> None:
        text = "<think>\nso 5</think>5"
        assert encoder.decode(encoder.encode_completion(text)) == text
