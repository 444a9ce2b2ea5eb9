"""How the files of other trainers hold prompts, demonstrations and preference pairs.

Of verl, EasyR1, TRL, LLaMA-Factory (its ShareGPT and OpenAI forms) and ms-swift, by their documentation of summer 2026.
Only single answers to images and text are read: rows with videos, sounds, tools or boxes to fill in are refused.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from specs_lightning.data.schema_base import Schema
from specs_lightning.prompts.messages import as_turn

_ROLES = {"system", "user", "assistant"}


class Verl(Schema):
    """verl: chat messages in `prompt`, the gold in `reward_model.ground_truth`; the rest is for its rewards."""

    columns: ClassVar = {"question": "prompt", "answer": "reward_model.ground_truth", "images": "images"}
    required = ("data_source", "prompt", "reward_model")

    def read(self, row: dict[str, Any]) -> dict[str, Any]:
        refuse_other_media(row)
        if "verifier" in (row.get("reward_model") or {}):
            raise ValueError("gold with a verifier of its own, as the schema orsta_47k reads it")
        if (row.get("extra_info") or {}).get("need_tools_kwargs"):
            raise ValueError("prompt that needs tools: only single answers are asked for")
        return {**row, "images": [_verl_image(image) for image in row.get("images") or []]}


def _verl_image(image: Any) -> Any:
    """As `datasets` stores it; or as Qwen's tools take it, its place in `image`."""
    place = image.get("image") if isinstance(image, dict) else None
    return place.removeprefix("file://") if isinstance(place, str) else image


class EasyR1(Schema):
    """EasyR1: a text in `problem`, by the settings of its examples, the gold in `answer`."""

    columns: ClassVar = {"question": "problem", "answer": "answer"}
    required = ("problem", "answer")

    def read(self, row: dict[str, Any]) -> dict[str, Any]:
        refuse_other_media(row)
        return row


class TRL(Schema):
    """TRL: `prompt` with the gold in `solution`, or with `chosen` and `rejected`, which may hold the prompt instead."""

    columns: ClassVar = {"question": "prompt"}

    def columns_of(self, existing: Collection[str]) -> Mapping[str, str]:
        return {**self.columns, **({"answer": "solution"} if "solution" in existing else {})}

    def missing(self, existing: Collection[str]) -> str | None:
        return None if "prompt" in existing or {"chosen", "rejected"} <= set(existing) else "prompt"

    def read(self, row: dict[str, Any]) -> dict[str, Any]:
        return row if row.get("prompt") is not None else {**row, "prompt": _parts(row)[0]}

    def sides(self, row: dict[str, Any]) -> tuple[Any, Any]:
        return super().sides(row) if row.get("prompt") is not None else _parts(row)[1:]


def _parts(row: Mapping[str, Any]) -> tuple[list[Any], list[Any], list[Any]]:
    """The prompt that both sides begin with, and what each has after it."""
    chosen, rejected = row.get("chosen"), row.get("rejected")
    if not isinstance(chosen, list) or not isinstance(rejected, list):
        raise ValueError("pair without a prompt: where chosen and rejected are texts, give the prompt by itself")
    alike = 0
    while alike < min(len(chosen), len(rejected)) and chosen[alike] == rejected[alike]:
        alike += 1
    return chosen[:alike], chosen[alike:], rejected[alike:]


class Conversations(Schema):
    """Chats whose last answer is the one to learn, in `messages` or `conversations`; a system message may stand apart.

    As prompts they are asked without that answer.
    """

    columns: ClassVar = {"messages": "messages", "question": ""}
    holds: ClassVar[tuple[str, ...]] = ("messages", "conversations")

    def missing(self, existing: Collection[str]) -> str | None:
        return None if any(name in existing for name in self.holds) else self.holds[0]

    def read(self, row: dict[str, Any]) -> dict[str, Any]:
        refuse_other_media(row)
        turns = self.conversation(row)[0]
        system = row.get("system")
        if isinstance(system, str) and system and as_turn(turns[0])["role"] != "system":
            turns = [{"role": "system", "content": system}, *turns]
        return {**row, "messages": turns}

    def conversation(self, row: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
        """The messages up to the user's last, and those after it."""
        messages = next((row[name] for name in self.holds if row.get(name)), None)
        if not isinstance(messages, list):
            raise ValueError(f"messages are not a list: {type(messages).__name__}")
        roles = [as_turn(message)["role"] for message in messages]
        if others := [role for role in roles if role not in _ROLES]:
            raise ValueError(f"turn of a tool: {others[0]}")
        if "user" not in roles:
            raise ValueError("messages without one of the user")
        end = len(roles) - roles[::-1].index("user")
        return messages[:end], messages[end:]


class LLaMAFactory(Conversations):
    """LLaMA-Factory: `conversations` by `from` and `value`, or `messages` by `role` and `content`; pairs in columns."""

    holds = ("conversations", "messages")

    def sides(self, row: dict[str, Any]) -> tuple[Any, Any]:
        after = self.conversation(row)[1]
        if row.get("chosen") is None:
            return after, None
        if after:
            raise ValueError("conversation that ends with an answer beside chosen: leave it out")
        return super().sides(row)


class MsSwift(Conversations):
    """ms-swift: the chosen answer ends `messages`; the rejected one is in `rejected_response`; golds in `solution`."""

    rejected = "rejected_response"

    def columns_of(self, existing: Collection[str]) -> Mapping[str, str]:
        return {**self.columns, **({"answer": "solution"} if "solution" in existing else {})}

    def read(self, row: dict[str, Any]) -> dict[str, Any]:
        if row.get("objects"):
            raise ValueError("objects to fill into the text: only texts as they are, are read")
        return super().read(row)

    def sides(self, row: dict[str, Any]) -> tuple[Any, Any]:
        if row.get("rejected_messages") or row.get("rejected_images") not in (None, [], row.get("images")):
            raise ValueError("rejected side with messages or images of its own: give rejected_response")
        chosen = self.conversation(row)[1]
        if any(isinstance(message, dict) and message.get("loss") is False for message in chosen):
            raise ValueError("answer that is not to be learned: its loss is false")
        return chosen, row.get(self.rejected)


def refuse_other_media(row: Mapping[str, Any]) -> None:
    """`ValueError` of a row with videos, sounds or tools."""
    for name in ("videos", "video", "audios", "audio", "tools"):
        if row.get(name):
            raise ValueError(f"{name}, only images and text are read")
