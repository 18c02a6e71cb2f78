"""What did a model say in the end? Its reasoning taken off and counted, and what it wrapped the answer in opened.

Reasoning stands between <think> and </think> (DeepSeek-R1, Qwen), [THINK] (Magistral), <unused94> and <unused95>
(MedGemma), in the analysis channel of gpt-oss, or before a </think> whose opening the chat template wrote. Without an
end everything after its beginning is reasoning, and nothing was said. Answers are wrapped in <answer>, in \\boxed{} or
in JSON.
"""

from __future__ import annotations

import ast
import json
import re
from dataclasses import dataclass
from typing import Any, Literal

Wrapping = Literal["", "tag", "json", "boxed"]

_NAMES = "think|thinking|thought|thoughts|reasoning|analysis|reflection|scratchpad|seed:think"
_OPEN = (
    rf"<(?:{_NAMES})>",
    r"\[THINK\]",
    "◁think▷",
    "<unused94>",
    r"<\|begin_of_thought\|>",
    r"<\|START_THINKING\|>",
    r"<\|channel\|>(?:analysis|commentary)<\|message\|>",
)
_CLOSE = (
    rf"</(?:{_NAMES})>",
    r"\[/THINK\]",
    "◁/think▷",
    "<unused95>",
    r"<\|end_of_thought\|>",
    r"<\|END_THINKING\|>",
    r"<\|channel\|>final<\|message\|>",
)
_ALIKE = [re.compile(rf"{begin}.*?{end}", re.I | re.S) for begin, end in zip(_OPEN, _CLOSE, strict=True)]
_ANY_OPEN, _ANY_CLOSE = (re.compile("|".join(marks), re.IGNORECASE) for marks in (_OPEN, _CLOSE))
_BARE_CHANNELS = re.compile(r"^\s*analysis(.*)assistantfinal", re.DOTALL)
"""gpt-oss's channels where the decoder left the special tokens out."""
_TAG = re.compile(r"<(answer|final_answer)>(.*?)(?=<\1>|</\1>|$)", re.IGNORECASE | re.DOTALL)
_BOX_TAG = re.compile(r"<\|begin_of_box\|>(.*?)(?=<\|end_of_box\|>|$)", re.DOTALL)
_SPECIAL = re.compile(r"<\|[\w ]{1,40}\|>|</?s>|<(?:eos|bos|pad|end_of_turn|start_of_turn|unused\d+)>|</?answer>", re.I)
_FENCE = re.compile(r"^\s*```\w*\n?|\n?```\s*$")
_BOXED = re.compile(r"\\f?boxed\s*\{")
_KEYS = ("final_answer", "finalanswer", "answer", "response", "prediction", "report")
_LETTER_KEYS = ("choice", "answer_choice", "option", "selected_option", "letter")
_WORD_KEYS = ("text", "words", "value")
_CUT_JSON = re.compile(r"""[{,]\s*["'](?:final_)?answer["']\s*:\s*"([^"]*)\"""", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class FinalText:
    """What was said, without its reasoning.

    reasoning: what stood before it, "" for none. is_unfinished: the reasoning has no end. wrapping: what the answer was
    taken out of.
    """

    text: str
    reasoning: str = ""
    is_unfinished: bool = False
    wrapping: Wrapping = ""

    @property
    def num_reasoning_words(self) -> int:
        """Words between spaces."""
        return len(self.reasoning.split())


def final_text(output: str) -> FinalText:
    """What an output says in the end, stripped; an output without reasoning or wrapping is its own text."""
    said, reasoning, is_unfinished = _without_reasoning(output)
    text, wrapping = _unwrapped(_SPECIAL.sub(lambda mark: mark.group() if "answer" in mark.group() else " ", said))
    return FinalText(text=text.strip(), reasoning=reasoning.strip(), is_unfinished=is_unfinished, wrapping=wrapping)


def _without_reasoning(output: str) -> tuple[str, str, bool]:
    """(what is said, the reasoning, whether the reasoning has no end)."""
    if bare := _BARE_CHANNELS.match(output):
        return output[bare.end() :], bare.group(1), False
    taken: list[str] = []

    def keep(found: re.Match[str]) -> str:
        taken.append(_ANY_CLOSE.sub(" ", _ANY_OPEN.sub(" ", found.group())))
        return " "

    said = output
    for pattern in _ALIKE:
        said = pattern.sub(keep, said)
    if ends := list(_ANY_CLOSE.finditer(said)):
        taken.append(said[: ends[-1].start()])
        said = said[ends[-1].end() :]
    is_unfinished = False
    if begin := _ANY_OPEN.search(said):
        taken.append(said[begin.end() :])
        said, is_unfinished = said[: begin.start()], True
    return said, " ".join(taken), is_unfinished


def _unwrapped(text: str) -> tuple[str, Wrapping]:
    if tags := list(_TAG.finditer(text)):
        return _unwrapped(tags[-1].group(2))[0], "tag"
    if boxes := list(_BOX_TAG.finditer(text)):
        return _unwrapped(boxes[-1].group(1))[0], "tag"
    text = _SPECIAL.sub(" ", text)
    if (said := _from_json(_FENCE.sub("", text))) is not None:
        return _unwrapped(said)[0], "json"
    if boxes := list(_BOXED.finditer(text)):
        return _braced(text, boxes[-1].end()), "boxed"
    return text, ""


def _braced(text: str, start: int) -> str:
    """The text up to the brace that closes the one before `start`."""
    depth = 1
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if not depth:
            return text[start:place]
    return text[start:]


def _from_json(text: str) -> str | None:
    """The answer of the JSON object in a text; None where there is none, or none that holds an answer."""
    begin, end = text.find("{"), text.rfind("}")
    if begin < 0:
        return None
    if end > begin and (value := _parsed(text[begin : end + 1])) is not None:
        return _answer_in(value)
    cut = _CUT_JSON.search(text)
    return cut.group(1) if cut else None


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _answer_in(value: Any) -> str | None:
    """The text under the key that names an answer; a letter under one key and words under another are joined."""
    if not isinstance(value, dict):
        return None
    known = {str(key).strip().lower().replace(" ", "_"): inner for key, inner in value.items()}
    words = [_plain(known[key]) for key in _KEYS if key in known][:1]
    letters = [_plain(known[key]) for key in _LETTER_KEYS if key in known][:1]
    if letters and not words:
        words = [_plain(known[key]) for key in _WORD_KEYS if key in known][:1]
    if not letters and not words:
        return None
    if letters and words and words[0] and letters[0] != words[0]:
        return f"{letters[0]}. {words[0]}"
    return (letters or words)[0]


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return _answer_in(value) or ""
    if isinstance(value, list):
        return ", ".join(_plain(inner) for inner in value)
    return "" if value is None else str(value)
