"""How does a prompt become token ids, with a place for each volume, the bare question marked, the answer learnt?

The prompt is split at "<image3d>"; the pieces are tokenised on their own, and S placeholder ids stand for each volume.
What a user wrote is only ever text: no question or answer can spell a control token.
B prompts of T tokens, S placeholders per volume.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, ProcessorMixin

from slicesight.errors import InputError, ModelError
from slicesight.models.arguments import check_choice
from slicesight.models.med2e3.chat import system_gap
from slicesight.models.med2e3.loss import IGNORED
from slicesight.models.med2e3.prompt_templates import VOLUME_TOKEN, PromptTemplate
from slicesight.models.med2e3.text_tokens import TextTokenizer

MAX_QUESTION_TOKENS = 512


class PromptPart(NamedTuple):
    """A part of a prompt; role is "", "question" (the latest, bare), "answer", "last_answer" or "prefix"."""

    text: str
    role: str = ""
    is_user: bool = False


@dataclass(frozen=True, kw_only=True)
class EncodedPrompt:
    """One prompt: token ids, which of them are the bare question, which are to be learnt.

    num_prefix: how many at the end begin the answer, as the one who asks wrote it.
    """

    input_ids: list[int]
    question_mask: list[bool]
    labels: list[int]
    num_prefix: int = 0


class PromptEncoding(ProcessorMixin):
    """The part of a processor that writes prompts; `Med2E3Processor` sets what stands here first."""

    prompt: PromptTemplate
    text_tokenizer: TextTokenizer
    opening_ids: list[int]
    placeholder_token_id: int
    num_visual_tokens: int
    max_length: int | None
    question_tokenizer: PreTrainedTokenizerBase | None

    def render(
        self,
        question: str,
        *,
        answer: str | None = None,
        history: Sequence[tuple[str, str]] = (),
        num_volumes: int = 1,
        system: str | None = None,
        prefix: str = "",
    ) -> str:
        """The prompt as text, with "<image3d>" for each volume."""
        parts = self.list_parts(question, answer, history, num_volumes, system=system, prefix=prefix)
        return "".join(part.text for part in parts)

    def list_parts(
        self,
        question: str,
        answer: str | None,
        history: Sequence[tuple[str, str]],
        num_volumes: int,
        *,
        system: str | None = None,
        prefix: str = "",
    ) -> list[PromptPart]:
        """The prompt's parts in order.

        Raises:
            InputError: the system's message or the prefix has a place for a volume; a prefix beside an answer.
        """
        if VOLUME_TOKEN in prefix or VOLUME_TOKEN in (system or ""):
            raise InputError(f"{VOLUME_TOKEN} stands in the system's message or in the prefix; put it in a question.")
        if prefix and answer is not None:
            raise InputError("an answer and a prefix were given; the prefix is of an answer still to be generated.")
        turns: list[tuple[str, str | None]] = [*history, (question, answer)]
        before_question, has_question, after_question = self.prompt.user.partition("{question}")
        if has_question and not any(VOLUME_TOKEN in text for text, _ in turns):
            turns[0] = (self.prompt.place * num_volumes + turns[0][0], turns[0][1])
        before_answer, _, after_answer = self.prompt.answer.partition("{answer}")
        cue = before_answer.rstrip()  # the space before an answer is the model's to say
        if system is None:
            parts = [PromptPart(self.prompt.system)]
        else:
            parts = [PromptPart(system.strip(), is_user=True), PromptPart(system_gap(self.prompt))]
        for number, (turn_question, turn_answer) in enumerate(turns, start=1):
            is_last = number == len(turns)
            parts.append(PromptPart(before_question))
            for position, piece in enumerate(turn_question.split(VOLUME_TOKEN) if has_question else ()):
                bare = piece.strip()
                lead = piece[: len(piece) - len(piece.lstrip())] if bare else piece
                parts += [PromptPart(VOLUME_TOKEN if position else ""), PromptPart(lead)]
                parts.append(PromptPart(bare, "question" if is_last else "", is_user=True))
                parts.append(PromptPart(piece[len(lead) + len(bare) :]))
            parts.append(PromptPart(after_question))
            if turn_answer is None and prefix.strip():
                parts += [PromptPart(before_answer), PromptPart(prefix.strip(), "prefix", is_user=True)]
            elif turn_answer is None:
                parts.append(PromptPart(self.prompt.cue))
            else:
                if self.tokenizer.eos_token is None and "{eos}" in after_answer:
                    raise ModelError("the tokenizer has no end token, which finishes an answer; set its eos_token.")
                role = "last_answer" if is_last else "answer"
                parts += [PromptPart(cue), PromptPart(before_answer[len(cue) :], role)]
                parts.append(PromptPart(turn_answer, role, is_user=True))
                parts.append(PromptPart(after_answer.format(eos=self.tokenizer.eos_token), role))
        return parts

    def encode_prompt(
        self,
        question: str,
        *,
        answer: str | None = None,
        history: Sequence[tuple[str, str]] = (),
        num_volumes: int = 1,
        supervise: str = "last",
        system: str | None = None,
        prefix: str = "",
    ) -> EncodedPrompt:
        """Tokenise one prompt; InputError where its "<image3d>" are not its volumes, or it exceeds max_length."""
        check_choice(supervise, "supervise", ("last", "all"))
        self.check_question(question)
        parts = self.list_parts(question, answer, history, num_volumes, system=system, prefix=prefix)
        text = "".join(part.text for part in parts)
        found = text.count(VOLUME_TOKEN)
        if found != num_volumes:
            raise InputError(
                f"the prompt has {found} {VOLUME_TOKEN} for {num_volumes} volumes; "
                f"write one per volume, or none to have them placed before the question."
            )
        pieces = text.split(VOLUME_TOKEN)
        if self.prompt.stand_in:
            written = self.prompt.stand_in * self.num_visual_tokens
            parts = [part._replace(text=part.text.replace(VOLUME_TOKEN, written)) for part in parts]
            pieces = ["".join(part.text for part in parts)]
        roles = [part.role for part in parts for _ in part.text]
        is_user = [part.is_user for part in parts for _ in part.text]
        rows: list[tuple[int, bool, int]] = [(token, False, IGNORED) for token in self.opening_ids]
        learnt = {"last_answer", "answer"} if supervise == "all" else {"last_answer"}
        offset = num_prefix = 0
        for number, piece in enumerate(pieces):
            if number:
                rows += [(self.placeholder_token_id, False, IGNORED)] * self.num_visual_tokens
                offset += len(VOLUME_TOKEN)
            if not piece:
                continue
            for token, start, end in self.text_tokenizer.tokenize(piece, is_user[offset : offset + len(piece)]):
                covered = set(roles[offset + start : offset + max(end, start + 1)])
                rows.append((token, "question" in covered, token if covered & learnt else IGNORED))
                num_prefix += "prefix" in covered
            offset += len(piece)
        if self.max_length is not None and len(rows) > self.max_length:
            raise InputError(
                f"a prompt of {len(rows)} tokens (visual ones included) exceeds max_length {self.max_length}; "
                f"shorten it or raise max_length: {strip_volume_token(question)[:60]!r}"
            )
        return EncodedPrompt(
            input_ids=[token for token, _, _ in rows],
            question_mask=[is_question for _, is_question, _ in rows],
            labels=[label for _, _, label in rows],
            num_prefix=num_prefix,
        )

    def pad_prompts(self, encoded: Sequence[EncodedPrompt], side: str) -> dict[str, Tensor]:
        """Pad to the longest prompt on the given side -> input_ids, attention_mask, question_mask, labels (B, T)."""
        check_choice(side, "padding_side", ("left", "right"))
        length = max(len(prompt.input_ids) for prompt in encoded)
        padding = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 0)
        pad_id = next(number for number in padding if number is not None)
        data = {
            "input_ids": torch.full((len(encoded), length), pad_id),
            "attention_mask": torch.zeros(len(encoded), length, dtype=torch.long),
            "question_mask": torch.zeros(len(encoded), length, dtype=torch.bool),
            "labels": torch.full((len(encoded), length), IGNORED),
        }
        for row, prompt in enumerate(encoded):
            size = len(prompt.input_ids)
            place = slice(length - size, length) if side == "left" else slice(0, size)
            data["input_ids"][row, place] = torch.tensor(prompt.input_ids)
            data["attention_mask"][row, place] = 1
            data["question_mask"][row, place] = torch.tensor(prompt.question_mask)
            data["labels"][row, place] = torch.tensor(prompt.labels)
        return data

    def check_question(self, question: str) -> None:
        """Raises InputError for a question that is longer than the text encoder reads."""
        if self.question_tokenizer is None:
            return
        longest = min(MAX_QUESTION_TOKENS, self.question_tokenizer.model_max_length)
        if len(question.encode("utf-8", "replace")) + 2 <= longest:  # a token is a byte at least
            return
        length = len(self.question_tokenizer(strip_volume_token(question), split_special_tokens=True)["input_ids"])
        if length > longest:
            raise InputError(
                f"the question has {length} tokens for the text encoder that weighs the slices, which reads {longest}; "
                f"shorten it: {question[:60]!r}"
            )


def strip_volume_token(question: str) -> str:
    """The bare question: without "<image3d>" and the space around it."""
    return " ".join(piece.strip() for piece in question.split(VOLUME_TOKEN) if piece.strip())
