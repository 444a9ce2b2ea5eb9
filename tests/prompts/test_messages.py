"""Questions become chat messages, every image in the place that the text gives it."""

from typing import Any

import pytest

from specs_lightning.prompts.messages import as_turn, build_messages, lay_out, message_images, message_turns
from specs_lightning.scoring.answer_formats import FORMATS

IMAGE = {"type": "image"}
INSTRUCTION = FORMATS["think_answer"].instruction


def text(value: str) -> dict[str, str]:
    return {"type": "text", "text": value}


def content(question: str, n_images: int, **options: Any) -> list[dict[str, str]]:
    messages = build_messages(question, n_images, add_instruction=False, **options)
    assert [message["role"] for message in messages] == ["user"]
    return messages[0]["content"]


class TestMessages:
    @pytest.mark.parametrize("placeholder", ["<image>", "<image1>", "<image 1>", "<image_1>"])
    def test_an_image_stands_at_its_placeholder(self, placeholder: str) -> None:
        assert content(f"Look: {placeholder} What is it?", 1) == [text("Look: "), IMAGE, text(" What is it?")]

    def test_images_without_placeholder_come_first(self) -> None:
        assert content("Is <image2> red?", 3) == [IMAGE, IMAGE, text("Is "), IMAGE, text(" red?")]
        assert lay_out([{"role": "user", "content": "Is <image2> red?"}], 3)[1] == (0, 2, 1)

    def test_unnumbered_placeholders_take_the_images_that_no_number_takes(self) -> None:
        _, order = lay_out([{"role": "user", "content": "<image> then <image1>, <image>"}], 3)
        assert order == (1, 0, 2)

    def test_numbers_out_of_order_reorder_the_images(self) -> None:
        assert lay_out([{"role": "user", "content": "<image 2> after <image 1>"}], 2)[1] == (1, 0)

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
        turns = [{"role": "user", "content": "Fold <image1> into <image2>."}]
        assert lay_out(turns, 1, sheet=True)[0][0]["content"] == [IMAGE, text("Fold <image1> into <image2>.")]
        with pytest.raises(ValueError, match="more image placeholders"):
            lay_out(turns, 1)

    def test_a_sheet_with_one_figure_is_an_image_like_any_other(self) -> None:
        turns = [{"role": "user", "content": "See <image1>"}]
        assert lay_out(turns, 1, sheet=True) == lay_out(turns, 1)

    def test_unnumbered_placeholders_never_share_an_image(self) -> None:
        with pytest.raises(ValueError, match="more image placeholders"):
            lay_out([{"role": "user", "content": "<image> and <image>"}], 1, sheet=True)

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
        turns = message_turns(as_text, None, None)
        assert turns == message_turns(as_parts, None, None) == [{"role": "user", "content": "Look <image> here"}]

    def test_the_instruction_ends_the_last_message_and_images_open_the_first_of_the_user(self) -> None:
        messages = [
            {"role": "system", "content": "S"},
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "two"},
            {"role": "user", "content": "three"},
        ]
        laid_out = lay_out(message_turns(messages, "not used", INSTRUCTION), 1)[0]
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
            message_turns(messages, None, INSTRUCTION)


class TestOtherMedia:
    @pytest.mark.parametrize("kind", ["video", "video_url", "audio", "input_audio"])
    def test_a_part_that_is_no_image_is_refused_by_name(self, kind: str) -> None:
        message = {"role": "user", "content": [{"type": kind}, {"type": "text", "text": "What happens?"}]}
        with pytest.raises(ValueError, match=rf"only images are read: a message part of type '{kind}'"):
            message_turns([message], None, INSTRUCTION)

    @pytest.mark.parametrize("placeholder", ["<video>", "<video1>", "<audio>"])
    def test_a_placeholder_of_another_kind_is_refused_by_name(self, placeholder: str) -> None:
        with pytest.raises(ValueError, match=f"only images are read: {placeholder} in the text"):
            build_messages(f"{placeholder} What happens?", 0)


class TestSpellings:
    @pytest.mark.parametrize(
        ("message", "role"),
        [
            ({"role": "user", "content": "Q?"}, "user"),
            ({"from": "human", "value": "Q?"}, "user"),
            ({"from": "gpt", "value": "Q?"}, "assistant"),
            ({"role": "system", "content": [{"type": "text", "text": "Q?"}]}, "system"),
            ({"role": "user", "content": [{"type": "text", "text": "Q?", "image": None}]}, "user"),
        ],
    )
    def test_a_message_is_read_in_each(self, message: dict[str, Any], role: str) -> None:
        assert as_turn(message) == {"role": role, "content": "Q?"}

    @pytest.mark.parametrize(
        "message", ["Q?", None, {}, {"content": "Q?"}, {"value": "Q?"}, {"role": 1, "content": ""}]
    )
    def test_what_has_no_role_is_none(self, message: Any) -> None:
        with pytest.raises(ValueError, match="message without a role"):
            as_turn(message)

    def test_images_within_messages_are_found_in_order_and_mark_their_place(self) -> None:
        first = [{"type": "image", "image": "file:///a.png"}, {"type": "text", "text": "and"}]
        second = [
            {"type": "text", "text": "then"},
            {"type": "image_url", "image_url": {"url": "b.png"}},
            {"type": "image", "image": {"bytes": b"c", "path": None}},
            {"type": "image"},
            {"type": "image", "image": None},
        ]
        messages = [
            {"role": "user", "content": first},
            {"from": "human", "value": "?"},
            {"role": "user", "content": second},
        ]
        assert message_images(messages) == ["/a.png", "b.png", {"bytes": b"c", "path": None}]
        assert as_turn(messages[0])["content"] == "<image>and"
        assert as_turn(messages[2])["content"] == "then<image><image><image><image>"

    def test_a_conversation_that_holds_its_answer_says_what_to_do(self) -> None:
        turns = [{"from": "human", "value": "Q?"}, {"from": "gpt", "value": "4"}]
        with pytest.raises(ValueError, match="do not end with the user's: leave out what answers them"):
            message_turns(turns, None, INSTRUCTION)
