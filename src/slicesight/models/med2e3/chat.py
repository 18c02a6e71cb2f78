"""How do messages become a prompt? Hugging Face's chat format -> turns and volumes, and the Jinja form of a template.

[{"role": "user", "content": [{"type": "image", "path": "scan.nii.gz"}, {"type": "text", "text": "Which phase?"}]}, ...]
A part of type "image" or "volume" is a scan; its places stand before the words of its message, in the order given, as
in training. A message of the system, first if at all, takes the place of the template's own opening. A last message of
the assistant is either finished or one that the answer goes on from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slicesight.errors import InputError
from slicesight.models.med2e3.prompt_templates import VOLUME_TOKEN, PromptTemplate

SCAN_PARTS = ("image", "volume", "image_url")
SCAN_KEYS = ("image", "volume", "path", "url")


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """One prompt's parts.

    system: None for the template's own. history: earlier questions and answers. answer: of the question, finished.
    prefix: how the answer begins. scans: those named in the messages, in order; num_places: how many have a place.
    """

    question: str
    history: tuple[tuple[str, str], ...] = ()
    answer: str | None = None
    system: str | None = None
    prefix: str = ""
    scans: tuple[Any, ...] = ()
    num_places: int = 0


def read_messages(
    messages: Sequence[Mapping[str, Any]], template: PromptTemplate, *, is_continued: bool
) -> Conversation:
    """The conversation that messages hold.

    Args:
        is_continued: the last message is the assistant's, and the answer goes on from it.

    Raises:
        InputError: no messages, other roles or another order than user and assistant in turn, or an unknown part.
    """
    if not isinstance(messages, Sequence) or not messages or not all(isinstance(one, Mapping) for one in messages):
        raise InputError(
            f'messages are {str(messages)[:60]!r}; expected a list of {{"role": "user", "content": ...}}, user first.'
        )
    system: str | None = None
    turns: list[str] = []
    scans: list[Any] = []
    num_places = 0
    for number, message in enumerate(messages):
        role = message.get("role")
        text, found, places = _read_content(message, f"messages.{number}")
        if role == "system" and number == 0:
            system = text
            if places:
                raise InputError("messages.0 is the system's and holds a scan; put scans into the user's messages.")
            continue
        expected = "user" if len(turns) % 2 == 0 else "assistant"
        if role != expected:
            raise InputError(
                f"messages.{number}.role is {role!r}, expected {expected!r}: user and assistant take turns, user "
                "first, after a system message or none."
            )
        if places and role != "user":
            raise InputError(f"messages.{number} is the assistant's and holds a scan; put it into a user's message.")
        scans += found
        num_places += places
        turns.append(template.place * places + text)
    if not turns:
        raise InputError("the messages hold no question; expected a user's message.")
    ends_with_answer = len(turns) % 2 == 0
    if is_continued and not (ends_with_answer and turns[-1]):
        raise InputError("there is no answer to go on from; end the messages with the assistant's first words.")
    last = turns[-1] if ends_with_answer else None
    asked = turns[:-1] if ends_with_answer else turns
    return Conversation(
        question=asked[-1],
        history=tuple(zip(asked[:-1:2], asked[1::2], strict=True)),
        answer=None if is_continued else last,
        system=system,
        prefix=last if is_continued and last else "",
        scans=tuple(scans),
        num_places=num_places,
    )


def _read_content(message: Mapping[str, Any], place: str) -> tuple[str, list[Any], int]:
    """A message's words, the scans it names, and how many places for scans it has."""
    content = message.get("content")
    if content is None or isinstance(content, str):
        return (content or "").strip(), [], 0
    texts: list[str] = []
    scans: list[Any] = []
    num_places = 0
    for number, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"].strip())
        elif kind in SCAN_PARTS:
            num_places += 1
            link = part.get("image_url")  # OpenAI's shape of an image
            found = [link.get("url") if isinstance(link, Mapping) else link] if link is not None else []
            scans += found or [part[key] for key in SCAN_KEYS if part.get(key) is not None]
        else:
            raise InputError(
                f"{place}.content.{number} is of type {kind!r}; expected 'text', or 'image' or 'volume' with a path, "
                "a slicesight.Volume or an array."
            )
    if scans and len(scans) != num_places:
        raise InputError(f"{place} has {num_places} places for scans and names {len(scans)}; name all or none there.")
    return "\n".join(text for text in texts if text), scans, num_places


def system_gap(template: PromptTemplate) -> str:
    """What stands between a system message and the first question: what follows the template's own opening."""
    return template.system[len(template.system.rstrip()) :] or "\n"


def write_chat_template(template: PromptTemplate) -> str | None:
    """The template in Jinja, for what renders prompts by it; None where it holds no question."""
    before, has_question, after = template.user.partition("{question}")
    if not has_question:
        return None
    before_answer, _, after_answer = template.answer.partition("{answer}")
    opened, closed = (_literal(piece) for piece in (before_answer, after_answer.partition("{eos}")[0]))
    ending = " ~ eos_token" + _and(after_answer.partition("{eos}")[2]) if "{eos}" in after_answer else ""
    scan_parts = "[" + ", ".join(map(_literal, SCAN_PARTS)) + "]"
    return (
        "{%- set state = namespace(asks=true) -%}\n"
        "{%- if messages[0]['role'] != 'system' -%}{{- " + _literal(template.system) + " -}}{%- endif -%}\n"
        "{%- for message in messages -%}\n"
        "{%- set found = namespace(places='', text='') -%}\n"
        "{%- if message['content'] is string -%}{%- set found.text = message['content'] | trim -%}\n"
        "{%- else -%}{%- for part in message['content'] -%}\n"
        "{%- if part['type'] == 'text' -%}"
        "{%- set found.text = found.text ~ ('\\n' if found.text and part['text'] | trim else '')"
        " ~ part['text'] | trim -%}\n"
        "{%- elif part['type'] in " + scan_parts + " -%}{%- set found.places = found.places ~ "
        "" + _literal(template.place) + " -%}\n"
        "{%- else -%}{{- raise_exception('a part of a message is neither text nor a scan') -}}{%- endif -%}\n"
        "{%- endfor -%}{%- endif -%}\n"
        "{%- if message['role'] == 'system' and loop.first -%}"
        "{{- found.text ~ " + _literal(system_gap(template)) + " -}}\n"
        "{%- elif message['role'] == 'user' and state.asks -%}"
        "{{- " + _literal(before) + " ~ found.places ~ found.text ~ " + _literal(after) + " -}}"
        "{%- set state.asks = false -%}\n"
        "{%- elif message['role'] == 'assistant' and not state.asks -%}"
        "{{- " + opened + " -}}{%- generation -%}{{- found.text ~ " + closed + ending + " -}}{%- endgeneration -%}"
        "{%- set state.asks = true -%}\n"
        "{%- else -%}{{- raise_exception('user and assistant take turns, user first') -}}{%- endif -%}\n"
        "{%- endfor -%}\n"
        "{%- if add_generation_prompt -%}{{- " + _literal(template.cue) + " -}}{%- endif -%}"
    )


def _literal(text: str) -> str:
    """A text as Jinja writes it."""
    return json.dumps(text, ensure_ascii=False)


def _and(text: str) -> str:
    return f" ~ {_literal(text)}" if text else ""


def split_rendered(text: str, template: PromptTemplate) -> Conversation | None:
    """The question of a prompt that was rendered with the template already; None for a bare question.

    Raises:
        InputError: a rendered prompt without its end, of several turns, or with a system message of its own, whose
            parts cannot be told from what a user wrote.
    """
    before, has_question, after = template.user.partition("{question}")
    if not has_question:
        return None
    start, end = template.system + before, after + template.cue
    has_start = bool(start.strip()) and text.startswith(start.rstrip())
    has_end = bool(end.strip()) and text.rstrip().endswith(end.strip())
    if not has_start and not (has_end and not start.strip()):
        return None
    if not has_end:
        raise InputError(
            f"text begins as this model's prompts do but does not end with {end.strip()!r}: {text[-40:]!r}; render it "
            "with add_generation_prompt=True, or give the bare question."
        )
    body = text[len(start) : len(text.rstrip()) - len(end.strip())].rstrip() if has_end else text[len(start) :]
    marks = [mark.strip() for mark in (before, template.cue) if mark.strip()]
    if any(mark in body for mark in marks):
        raise InputError(
            f"text is a prompt of several turns ({marks} stand in it), which cannot be told from what a user wrote; "
            "give the messages to apply_chat_template(messages, tokenize=True, return_dict=True) instead."
        )
    return Conversation(question=body, num_places=body.count(VOLUME_TOKEN))
