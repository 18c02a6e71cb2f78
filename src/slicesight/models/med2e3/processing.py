"""How do a scan and a question become the model's inputs? The scan on the grid, the text as token ids.

The prompt is split at "<image3d>"; the pieces are tokenised on their own, and S placeholder ids stand for each volume.
What a user wrote is only ever text: no question or answer can spell a control token.
B prompts of T tokens, M volumes per prompt, V volumes (V, 1, N, H, W), Q text-encoder tokens.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import AutoProcessor, AutoTokenizer, BatchFeature, PreTrainedTokenizerBase, ProcessorMixin

from slicesight.errors import InputError, ModelError
from slicesight.models.arguments import check_choice
from slicesight.models.folder import refuse_adapter
from slicesight.models.med2e3.configuration import Med2E3Config
from slicesight.models.med2e3.loss import IGNORED
from slicesight.models.med2e3.matching import check_asked, count_visual_tokens
from slicesight.models.med2e3.prompt_templates import TEMPLATES, VOLUME_TOKEN, PromptTemplate
from slicesight.models.med2e3.scans import VolumeInput, stack_volumes
from slicesight.models.med2e3.text_tokens import TextTokenizer, find_opening_ids

QUESTION_TOKENIZER_FOLDER = "question_tokenizer"
MAX_QUESTION_TOKENS = 512


class PromptPart(NamedTuple):
    """A part of a prompt; role is "", "question" (the latest, bare), "answer" or "last_answer"."""

    text: str
    role: str = ""
    is_user: bool = False


@dataclass(frozen=True, kw_only=True)
class EncodedPrompt:
    """One prompt: token ids, which of them are the bare question, which are to be learnt."""

    input_ids: list[int]
    question_mask: list[bool]
    labels: list[int]


class Med2E3Processor(ProcessorMixin):
    """Turns questions (and answers, and scans) into the model's inputs.

    num_visual_tokens: S, placeholders per volume. grid: the grid settings (GridSpec as a dict) the model wants.
    template: a name of TEMPLATES or the fields of a PromptTemplate. question_tokenizer: for a text encoder, else None.
    max_length: longest prompt in tokens, visual ones included; a longer prompt is an error, never cut in silence.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        num_visual_tokens: int = 0,
        grid: dict[str, Any] | None = None,
        template: str | dict[str, Any] = "phi",
        max_length: int | None = None,
        question_tokenizer: PreTrainedTokenizerBase | None = None,
        chat_template: str | None = None,
    ) -> None:
        if grid is not None and not isinstance(grid, dict):
            raise ModelError(f"grid is {grid!r}; expected a mapping of the grid's settings, as GridSpec.to_dict gives.")
        if num_visual_tokens < 1:
            raise ModelError(
                f"num_visual_tokens is {num_visual_tokens}; make the processor with Med2E3Processor.for_model."
            )
        if isinstance(template, str) and template not in TEMPLATES:
            raise ModelError(
                f"template is {template!r}; expected one of {', '.join(TEMPLATES)} or a dict of its fields."
            )
        self.num_visual_tokens, self.grid, self.max_length = num_visual_tokens, grid, max_length
        self.template = template
        self.prompt = TEMPLATES[template] if isinstance(template, str) else PromptTemplate(**template)
        self.question_tokenizer = question_tokenizer
        placeholder = self.prompt.stand_in or VOLUME_TOKEN
        if placeholder not in tokenizer.get_vocab():
            tokenizer.add_special_tokens({"additional_special_tokens": [placeholder]})
        self.placeholder_token_id: int = tokenizer.get_vocab()[placeholder]
        self.opening_ids = find_opening_ids(tokenizer) if self.prompt.is_opened else []
        self.text_tokenizer = TextTokenizer(tokenizer, placeholder=placeholder)
        super().__init__(tokenizer, chat_template=chat_template)

    @classmethod
    def for_model(cls, config: Med2E3Config, tokenizer: PreTrainedTokenizerBase, **settings: Any) -> Med2E3Processor:
        """A processor that fits this configuration, whose placeholder_token_id it sets."""
        processor = cls(tokenizer, num_visual_tokens=count_visual_tokens(config), **settings)
        config.placeholder_token_id = processor.placeholder_token_id
        return processor

    def __call__(
        self,
        questions: str | Sequence[str],
        *,
        volumes: VolumeInput | Sequence[VolumeInput] | None = None,
        volume_index: Tensor | Sequence[int] | Sequence[Sequence[int]] | None = None,
        answers: str | Sequence[str] | None = None,
        history: Sequence[Sequence[tuple[str, str]]] | None = None,
        supervise: str = "last",
        padding_side: str | None = None,
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """Build the model's inputs for B questions.

        Args:
            volumes: V scans: files or folders, `Volume`s, or arrays and tensors that are on the model's grid already,
                each (N, H, W) or (1, N, H, W), in [0, 1]. One alone need not be a list.
            volume_index: which volumes each question is about: (B,) or rows of (B, M), -1 for none. Left out: one
                volume for all questions or one each when volumes are given, otherwise one place per question.
            answers: gives labels and right padding (training); without them the prompt ends where the answer begins.
            history: per question, the earlier (question, answer) turns; the volume's place is in the first of them.
            supervise: "last" answer only, or "all" answers of the conversation.

        Raises:
            InputError: an argument of the wrong kind or number, a scan that cannot be read, or a text that is too long.
        """
        check_choice(return_tensors, "return_tensors", ("pt",))
        questions = [questions] if isinstance(questions, str) else list(questions)
        answer_list = [answers] if isinstance(answers, str) else list(answers) if answers is not None else None
        for name, given in (("answers", answer_list), ("history", history)):
            if given is not None and len(given) != len(questions):
                raise InputError(f"{len(given)} {name} for {len(questions)} questions; give one for each.")
        volumes_V1NHW = None if volumes is None else stack_volumes(volumes, self.grid)
        index_BM = self.choose_volumes(len(questions), volumes_V1NHW, volume_index)
        encoded = [
            self.encode_prompt(
                question,
                answer=None if answer_list is None else answer_list[row],
                history=() if history is None else history[row],
                num_volumes=int((index_BM[row] >= 0).sum()),
                supervise=supervise,
            )
            for row, question in enumerate(questions)
        ]
        data = self.pad_prompts(encoded, padding_side or ("left" if answer_list is None else "right"))
        if answer_list is None:
            del data["labels"]
        if volumes_V1NHW is not None:
            data["volumes"] = volumes_V1NHW
        return BatchFeature({**data, "volume_index": index_BM, **self.encode_questions(questions)})

    def encode_questions(self, questions: Sequence[str]) -> dict[str, Tensor]:
        """The bare questions for a text encoder, question_ids and question_ids_mask (B, Q); nothing without one."""
        if self.question_tokenizer is None:
            return {}
        for question in questions:
            self.check_question(question)
        bare = [strip_volume_token(question) for question in questions]
        tokens = self.question_tokenizer(bare, padding=True, return_tensors="pt", split_special_tokens=True)
        return {"question_ids": tokens["input_ids"], "question_ids_mask": tokens["attention_mask"]}

    @property
    def question_padding(self) -> int:
        """The id that fills up question_ids."""
        found = None if self.question_tokenizer is None else self.question_tokenizer.pad_token_id
        return 0 if found is None else int(found)

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

    def render(
        self, question: str, *, answer: str | None = None, history: Sequence[tuple[str, str]] = (), num_volumes: int = 1
    ) -> str:
        """The prompt as text, with "<image3d>" for each volume."""
        return "".join(part.text for part in self.list_parts(question, answer, history, num_volumes))

    def list_parts(
        self, question: str, answer: str | None, history: Sequence[tuple[str, str]], num_volumes: int
    ) -> list[PromptPart]:
        """The prompt's parts in order."""
        turns: list[tuple[str, str | None]] = [*history, (question, answer)]
        before_question, has_question, after_question = self.prompt.user.partition("{question}")
        if has_question and not any(VOLUME_TOKEN in text for text, _ in turns):
            turns[0] = (self.prompt.place * num_volumes + turns[0][0], turns[0][1])
        before_answer, _, after_answer = self.prompt.answer.partition("{answer}")
        cue = before_answer.rstrip()  # the space before an answer is the model's to say
        parts = [PromptPart(self.prompt.system)]
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
            if turn_answer is None:
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
    ) -> EncodedPrompt:
        """Tokenise one prompt; InputError where its "<image3d>" are not its volumes, or it exceeds max_length."""
        check_choice(supervise, "supervise", ("last", "all"))
        self.check_question(question)
        parts = self.list_parts(question, answer, history, num_volumes)
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
        offset = 0
        for number, piece in enumerate(pieces):
            if number:
                rows += [(self.placeholder_token_id, False, IGNORED)] * self.num_visual_tokens
                offset += len(VOLUME_TOKEN)
            if not piece:
                continue
            for token, start, end in self.text_tokenizer.tokenize(piece, is_user[offset : offset + len(piece)]):
                covered = set(roles[offset + start : offset + max(end, start + 1)])
                rows.append((token, "question" in covered, token if covered & learnt else IGNORED))
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

    def choose_volumes(
        self,
        num_questions: int,
        volumes_V1NHW: Tensor | None,
        volume_index: Tensor | Sequence[int] | Sequence[Sequence[int]] | None,
    ) -> Tensor:
        """volume_index as (B, M) int64, ragged rows filled with -1."""
        if volume_index is None:
            num_volumes = num_questions if volumes_V1NHW is None else len(volumes_V1NHW)
            if num_volumes not in (1, num_questions):
                raise InputError(f"{num_questions} questions and {num_volumes} volumes; pass volume_index.")
            return torch.arange(num_questions)[:, None].clamp(max=num_volumes - 1)
        rows = [list(np.atleast_1d(np.asarray(row, dtype=np.int64))) for row in volume_index]
        if len(rows) != num_questions:
            raise InputError(f"volume_index has {len(rows)} rows for {num_questions} questions; give one per question.")
        if volumes_V1NHW is not None:
            check_asked({int(number) for row in rows for number in row}, len(volumes_V1NHW))
        width = max(1, *(len(row) for row in rows)) if rows else 1
        return torch.tensor([row + [-1] * (width - len(row)) for row in rows], dtype=torch.long)

    def decode_answers(self, generated: Tensor, *, num_prompt_tokens: int) -> list[str]:
        """The text after the prompt of each generated row, special tokens dropped and stripped."""
        texts = self.tokenizer.batch_decode(generated[:, num_prompt_tokens:], skip_special_tokens=True)
        return [text.strip() for text in texts]

    @classmethod
    def get_attributes(cls) -> list[str]:
        """Only the main tokenizer: the question tokenizer is optional, so it is saved and loaded here."""
        return ["tokenizer"]

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", "question_mask", "volume_index", "volumes"]

    def to_dict(self) -> dict[str, Any]:
        """The settings that are saved in processor_config.json."""
        settings = {"num_visual_tokens": self.num_visual_tokens, "grid": self.grid, "max_length": self.max_length}
        template = self.template if isinstance(self.template, str) else asdict(self.prompt)
        return {**settings, "template": template, "processor_class": type(self).__name__}

    def save_pretrained(self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any) -> Any:
        if self.question_tokenizer is not None:
            self.question_tokenizer.save_pretrained(Path(save_directory) / QUESTION_TOKENIZER_FOLDER)
        return super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Med2E3Processor:
        try:
            processor: Med2E3Processor = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except (OSError, ValueError):
            refuse_adapter(pretrained_model_name_or_path, missing="no processor")
            raise
        folder = Path(pretrained_model_name_or_path) / QUESTION_TOKENIZER_FOLDER
        if folder.is_dir():
            processor.question_tokenizer = AutoTokenizer.from_pretrained(folder)
        return processor


def strip_volume_token(question: str) -> str:
    """The bare question: without "<image3d>" and the space around it."""
    return " ".join(piece.strip() for piece in question.split(VOLUME_TOKEN) if piece.strip())


AutoProcessor.register(Med2E3Config, Med2E3Processor)
