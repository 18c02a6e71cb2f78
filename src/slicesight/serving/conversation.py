"""What is asked of which volume? OpenAI's messages -> volume, question, earlier turns, system message, begun answer.

The volume is a content part of a user message, {"type": "file", "file": {"file_id": "vol_..."}}, named once. What would
change an answer's meaning and is not supported is refused by name; other unknown fields are left alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from slicesight.serving.refusals import Refusal

_EXAMPLE: dict[str, Any] = {
    "model": "phantom-tiny",
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Is there a lesion in the liver?"},
                {"type": "file", "file": {"file_id": "vol_0123456789abcdef0123456789abcdef"}},
            ],
        }
    ],
    "stream": False,
}
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "response_format": ({"type": "text"},),
    **dict.fromkeys(("stop", "tools", "functions", "logprobs", "top_logprobs", "logit_bias", "audio"), ()),
    **dict.fromkeys(("presence_penalty", "frequency_penalty", "prediction", "web_search_options"), ()),
}
"""Fields that ask for what this model cannot do, and with which values they ask for nothing."""


GUEST_SYSTEM_NOTICE = "A system message was sent along, and the answer follows it as far as the guest does."
SYSTEM_NOTICE = (
    "The system message stands before the question as text; no model here was trained to follow one, and it may make "
    "the answer worse."
)
PREFIX_NOTICE = "The answer begins with words of the request; the model only went on from them."


class FileReference(BaseModel):
    """Which volume."""

    file_id: Annotated[str, Field(max_length=100, description="A volume's id.")] | None = None
    file_data: Any = None


class ContentPart(BaseModel):
    """Text, or a volume."""

    type: Annotated[str, Field(max_length=100, description="`text` or `file`.")]
    text: Annotated[str, Field(max_length=100_000)] | None = None
    file: FileReference | None = None
    image_url: Any = None


class Message(BaseModel):
    """One turn."""

    role: Literal["user", "assistant", "system", "developer", "tool", "function"]
    content: Annotated[str, Field(max_length=100_000)] | list[ContentPart] | None = None


class StreamOptions(BaseModel):
    """What a stream says besides words."""

    include_usage: bool | None = None


class ChatRequest(BaseModel):
    """OpenAI's body of a chat completion."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"examples": [_EXAMPLE]})

    model: Annotated[str, Field(max_length=500)]
    messages: Annotated[list[Message], Field(min_length=1, max_length=200)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False, description="0 is greedy.")] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    min_confidence: (
        Annotated[
            float,
            Field(ge=0, le=1, allow_inf_nan=False, description="Hold back answers of which the model is less sure."),
        ]
        | None
    ) = None
    answer_anyway: Annotated[bool, Field(description="Hold nothing back; `abstained` says what would be.")] | None = (
        None
    )


@dataclass(frozen=True, kw_only=True)
class ConversationTurn:
    """What is to be answered."""

    volume_id: str
    question: str
    history: tuple[tuple[str, str], ...]
    system: str | None = None
    prefix: str = ""

    def notices(self, *, follows_system: bool) -> list[str]:
        """What must be said of an answer to this conversation.

        Args:
            follows_system: whether the model may have learnt to follow a system message.
        """
        notice = GUEST_SYSTEM_NOTICE if follows_system else SYSTEM_NOTICE
        said = [notice] if self.system is not None else []
        return said + ([PREFIX_NOTICE] if self.prefix else [])


def read_conversation(body: ChatRequest, *, caption_question: str) -> ConversationTurn:
    """The latest question with its volume, what was said before it, and how its answer begins.

    System and developer messages come first. A last message of the assistant is the beginning of the answer.

    Args:
        caption_question: what a user message with a volume and no words asks.

    Raises:
        Refusal: 400 with the field that is wrong.
    """
    _refuse_unsupported(body)
    turns: list[str] = []
    told: list[str] = []
    volume_ids: set[str] = set()
    for number, message in enumerate(body.messages):
        place = f"messages.{number}"
        expected = "user" if len(turns) % 2 == 0 else "assistant"
        if message.role in ("system", "developer"):
            if turns:
                raise Refusal(
                    400,
                    f"{place} is a {message.role} message behind a user's; put it first, or say it in the question.",
                    param=f"{place}.role",
                )
            told += [text for text in _read_content(message, place)[:1] if text]
            continue
        if message.role not in ("user", "assistant"):
            raise Refusal(
                400,
                f"{place}.role is {message.role}, and this model calls no tools; send user and assistant messages.",
                param=f"{place}.role",
            )
        if message.role != expected:
            raise Refusal(
                400,
                f"{place}.role is {message.role}, expected {expected}: user and assistant take turns, user first.",
                param=f"{place}.role",
            )
        text, found = _read_content(message, place)
        volume_ids |= found
        if not text and not (message.role == "user" and found):
            raise Refusal(400, f"{place}.content has no words; write some.", param=f"{place}.content")
        turns.append(text or caption_question)
    if not turns:
        raise Refusal(
            400, "the conversation has no message of the user; end with a question of theirs.", param="messages"
        )
    prefix = turns.pop() if len(turns) % 2 == 0 else ""
    if len(volume_ids) != 1:
        found_text = "no volume" if not volume_ids else f"{len(volume_ids)} volumes"
        raise Refusal(
            400,
            f"messages name {found_text}; name one, as a user's content part "
            '{"type": "file", "file": {"file_id": "vol_..."}}.',
            param="messages",
        )
    return ConversationTurn(
        volume_id=volume_ids.pop(),
        question=turns[-1],
        history=tuple(zip(turns[:-1:2], turns[1::2], strict=True)),
        system="\n".join(told) or None,
        prefix=prefix,
    )


def _read_content(message: Message, place: str) -> tuple[str, set[str]]:
    if message.content is None or isinstance(message.content, str):
        return (message.content or "").strip(), set()
    texts, volume_ids = [], set()
    for number, part in enumerate(message.content):
        where = f"{place}.content.{number}"
        if part.type == "text" and part.text is not None:
            texts.append(part.text.strip())
        elif part.type == "file" and part.file is not None and part.file.file_id and message.role == "user":
            volume_ids.add(part.file.file_id)
        elif part.type in ("image_url", "input_image"):
            raise Refusal(
                400,
                f"{where} is a picture, and this model reads whole 3D scans; send the scan's file to POST "
                "/v1/volumes and name its id in a part of type file.",
                param=where,
            )
        elif part.type == "file" and part.file is not None and part.file.file_data is not None:
            raise Refusal(
                400,
                f"{where} holds the file itself; send it to POST /v1/volumes as multipart part `file`, once for all "
                "questions, and name the id you get as file_id.",
                param=f"{where}.file.file_data",
            )
        else:
            raise Refusal(
                400,
                f"{where} is not supported; expected a text part, or a user's file part with a file_id.",
                param=where,
            )
    return "\n".join(text for text in texts if text), volume_ids


def _refuse_unsupported(body: ChatRequest) -> None:
    given = body.model_extra or {}
    for name, harmless in _UNSUPPORTED.items():
        if given.get(name) and given[name] not in harmless:
            raise Refusal(400, f"{name} is not supported here; leave it out.", param=name, code="unsupported_parameter")
