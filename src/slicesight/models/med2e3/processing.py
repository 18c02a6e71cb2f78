"""How do a scan and a question become the model's inputs? The scan on the grid, the text as token ids.

The prompt is split at "<image3d>"; the pieces are tokenised on their own, and S placeholder ids stand for each volume.
What a user wrote is only ever text: no question or answer can spell a control token.
B prompts of T tokens, M volumes per prompt, V volumes (V, 1, N, H, W), Q text-encoder tokens.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import AutoProcessor, AutoTokenizer, BatchFeature, PreTrainedTokenizerBase, ProcessorMixin
from transformers.utils.hub import cached_file

from slicesight.errors import InputError, ModelError
from slicesight.models.arguments import check_choice
from slicesight.models.folder import refuse_adapter
from slicesight.models.med2e3.chat import Conversation, read_messages, split_rendered, system_gap, write_chat_template
from slicesight.models.med2e3.configuration import Med2E3Config
from slicesight.models.med2e3.loss import IGNORED
from slicesight.models.med2e3.matching import check_asked, count_visual_tokens
from slicesight.models.med2e3.prompt_templates import TEMPLATES, VOLUME_TOKEN, PromptTemplate
from slicesight.models.med2e3.scans import VolumeInput, flatten_scans, stack_volumes
from slicesight.models.med2e3.text_tokens import TextTokenizer, find_opening_ids

QUESTION_TOKENIZER_FOLDER = "question_tokenizer"
MAX_QUESTION_TOKENS = 512
HUB_SETTINGS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "token")


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
        super().__init__(tokenizer, chat_template=write_chat_template(self.prompt))
        if chat_template not in (None, self.chat_template):
            self._check_chat_template(chat_template)

    @classmethod
    def for_model(cls, config: Med2E3Config, tokenizer: PreTrainedTokenizerBase, **settings: Any) -> Med2E3Processor:
        """A processor that fits this configuration, whose placeholder_token_id it sets."""
        processor = cls(tokenizer, num_visual_tokens=count_visual_tokens(config), **settings)
        config.placeholder_token_id = processor.placeholder_token_id
        return processor

    def __call__(
        self,
        questions: str | Sequence[str] | None = None,
        *,
        text: str | Sequence[str] | None = None,
        images: VolumeInput | Sequence[Any] | None = None,
        volumes: VolumeInput | Sequence[Any] | None = None,
        volume_index: Tensor | Sequence[int] | Sequence[Sequence[int]] | None = None,
        answers: str | Sequence[str] | None = None,
        history: Sequence[Sequence[tuple[str, str]]] | None = None,
        system: str | None = None,
        prefix: str = "",
        supervise: str = "last",
        padding: bool | str = True,
        padding_side: str | None = None,
        truncation: bool | None = None,
        return_tensors: str | None = "pt",
    ) -> BatchFeature:
        """Build the model's inputs for B questions.

        Args:
            text: as the library's own processors take it: prompts that `apply_chat_template` rendered, or bare
                questions, which stand in the model's template as `questions` do.
            volumes: V scans: files or folders, `Volume`s, or arrays and tensors that are on the model's grid already,
                each (N, H, W) or (1, N, H, W), in [0, 1]; any other array is put on the grid as a .npy file is. One
                alone need not be a list; a list for each question names its own. images is the same.
            volume_index: which volumes each question is about: (B,) or rows of (B, M), -1 for none. Left out: one
                volume for all questions or one each when volumes are given, otherwise one place per question.
            answers: gives labels and right padding (training); without them the prompt ends where the answer begins.
            history: per question, the earlier (question, answer) turns; the volume's place is in the first of them.
            system: stands in place of the template's opening. prefix: how the answer begins, for the model to go on.
            supervise: "last" answer only, or "all" answers of the conversation.

        Raises:
            InputError: an argument of the wrong kind or number, a scan that cannot be read, or a text that is too long.
        """
        check_choice(return_tensors, "return_tensors", ("pt", None))
        check_choice(padding, "padding", (True, "longest"))
        check_choice(truncation, "truncation", (None, False))
        if (questions is None) == (text is None):
            raise InputError("give the questions once, as questions or as text.")
        if images is not None and volumes is not None:
            raise InputError("images and volumes are the same here; give the scans once.")
        if questions is not None:
            given = [questions] if isinstance(questions, str) else list(questions)
            conversations = [Conversation(question=question) for question in given]
        else:
            given = [text] if isinstance(text, str) else list(text or ())
            conversations = [split_rendered(one, self.prompt) or Conversation(question=one) for one in given]
        answer_list = [answers] if isinstance(answers, str) else list(answers) if answers is not None else None
        for name, found in (("answers", answer_list), ("history", history)):
            if found is not None and len(found) != len(conversations):
                raise InputError(f"{len(found)} {name} for {len(conversations)} questions; give one for each.")
        conversations = [
            replace(
                one,
                answer=None if answer_list is None else answer_list[row],
                history=() if history is None else tuple(history[row]),
                system=system,
                prefix=prefix,
            )
            for row, one in enumerate(conversations)
        ]
        return self.encode_conversations(
            conversations,
            volumes=images if volumes is None else volumes,
            volume_index=volume_index,
            supervise=supervise,
            padding_side=padding_side,
        )

    def encode_conversations(
        self,
        conversations: Sequence[Conversation],
        *,
        volumes: VolumeInput | Sequence[Any] | None = None,
        volume_index: Tensor | Sequence[int] | Sequence[Sequence[int]] | None = None,
        supervise: str = "last",
        padding_side: str | None = None,
    ) -> BatchFeature:
        """The model's inputs of B conversations; arguments as for a call.

        Raises:
            InputError: some conversations have an answer and others none, or what a call raises it for.
        """
        has_answers = conversations[0].answer is not None if conversations else False
        if any((one.answer is not None) != has_answers for one in conversations):
            raise InputError("some conversations end with an answer and others do not; separate them.")
        rows = None
        if volumes is not None:
            volumes, rows = flatten_scans(volumes, num_questions=len(conversations))
            if rows is not None and volume_index is not None:
                raise InputError("volumes are lists for each question already; leave volume_index out.")
            volume_index = volume_index if rows is None else rows
        has_none = volumes is None or (rows is not None and not volumes)
        volumes_V1NHW = None if has_none else stack_volumes(volumes, self.grid)
        index_BM = self.choose_volumes(len(conversations), volumes_V1NHW, volume_index)
        encoded = [
            self.encode_prompt(
                one.question,
                answer=one.answer,
                history=one.history,
                num_volumes=int((index_BM[row] >= 0).sum()),
                supervise=supervise,
                system=one.system,
                prefix=one.prefix,
            )
            for row, one in enumerate(conversations)
        ]
        data = self.pad_prompts(encoded, padding_side or ("right" if has_answers else "left"))
        if not has_answers:
            del data["labels"]
        if volumes_V1NHW is not None:
            data["volumes"] = volumes_V1NHW
        questions = [one.question for one in conversations]
        return BatchFeature({**data, "volume_index": index_BM, **self.encode_questions(questions)})

    def apply_chat_template(
        self,
        conversation: Sequence[Any],
        chat_template: str | None = None,
        *,
        tools: Any = None,
        documents: Any = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool | str = False,
        return_assistant_tokens_mask: bool = False,
        tokenize: bool = False,
        return_tensors: str | None = "auto",
        return_dict: bool = False,
        processor_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Messages, or a list of conversations, as prompts: text, or with tokenize=True the model's inputs.

        Args:
            conversation: messages with scans as parts (chat.py). An answer at the end is a finished one, or with
                continue_final_message the beginning of the one to generate.
            processor_kwargs: volumes, for places in the messages that name none; padding_side.

        Raises:
            InputError: messages that cannot be read, tools, documents, or a chat template that is not this model's.
        """
        if tools or documents:
            raise InputError("this model calls no tools and reads no documents; leave tools and documents out.")
        if chat_template not in (None, self.chat_template):
            self._check_chat_template(chat_template)
        settings = {**(processor_kwargs or {}), **kwargs}
        batched = bool(conversation) and isinstance(conversation[0], Sequence) and not isinstance(conversation[0], str)
        chats = list(conversation) if batched else [conversation]
        is_continued = bool(continue_final_message)
        read = [read_messages(messages, self.prompt, is_continued=is_continued) for messages in chats]
        if not tokenize:
            return super().apply_chat_template(
                conversation,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                **settings,
            )
        if not is_continued and not add_generation_prompt and any(one.answer is None for one in read):
            raise InputError(
                "the messages end with a question; pass add_generation_prompt=True to have it answered, or end them "
                "with an answer."
            )
        if add_generation_prompt and any(one.answer is not None for one in read):
            raise InputError(
                "the messages end with an answer; pass continue_final_message=True to have it gone on with, or a "
                "question behind it."
            )
        check_choice(return_tensors, "return_tensors", ("auto", "pt", None))
        for name, allowed in (("padding", (True, "longest")), ("truncation", (None, False))):
            check_choice(settings.pop(name, allowed[0]), name, allowed)
        named = [list(one.scans) for one in read]
        if any(named):
            if any(name in settings for name in ("volumes", "images", "volume_index")):
                raise InputError("the messages name their scans already; leave volumes, images and volume_index out.")
            settings["volumes"] = named
        elif "images" in settings:
            settings["volumes"] = settings.pop("images")
        elif not any(name in settings for name in ("volumes", "volume_index")):
            settings["volume_index"] = [list(range(one.num_places)) for one in read]  # places for scans still to come
        supervise = "all" if return_assistant_tokens_mask else "last"
        inputs = self.encode_conversations(read, supervise=supervise, **settings)
        if return_assistant_tokens_mask and "labels" in inputs:
            inputs["assistant_masks"] = (inputs["labels"] != IGNORED).long()
        inputs.pop("labels", None)
        return inputs if return_dict else inputs["input_ids"]

    def _check_chat_template(self, given: str | None) -> None:
        """Raises ModelError where a chat template renders other prompts than the ones the model was trained with."""
        first = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Is it large?"}]}
        turns = [first, {"role": "assistant", "content": "Yes."}, {"role": "user", "content": "How large?"}]
        try:
            found = super().apply_chat_template(turns, chat_template=given, add_generation_prompt=True)
        except Exception as error:  # whatever a foreign template raises
            found = f"an error ({' '.join(str(error).split())[:100]})"
        wanted = self.render("How large?", history=[(self.prompt.place + "Is it large?", "Yes.")])
        if found != wanted:
            raise ModelError(
                f"chat_template gives {found[-120:]!r} where this model's own prompt is {wanted[-120:]!r}; set the "
                "processor's template instead, and leave chat_template (chat_template.jinja) out."
            )

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
                parts += [PromptPart(before_answer), PromptPart(prefix.strip(), is_user=True)]
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
        names = ["input_ids", "attention_mask", "question_mask", "volume_index", "volumes"]
        return names + ([] if self.question_tokenizer is None else ["question_ids", "question_ids_mask"])

    def to_dict(self) -> dict[str, Any]:
        """The settings that are saved in processor_config.json."""
        settings = {"num_visual_tokens": self.num_visual_tokens, "grid": self.grid, "max_length": self.max_length}
        template = self.template if isinstance(self.template, str) else asdict(self.prompt)
        return {**settings, "template": template, "processor_class": type(self).__name__}

    def save_pretrained(self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any) -> Any:
        """As the library does, and the question tokenizer beside; uploaded is everything that was written."""
        files = super().save_pretrained(save_directory)
        if self.question_tokenizer is not None:
            self.question_tokenizer.save_pretrained(Path(save_directory) / QUESTION_TOKENIZER_FOLDER)
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", Path(save_directory).name), **kwargs)
        return files

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Med2E3Processor:
        """As the library does, from a folder or by a name on the hub, the question tokenizer with it."""
        try:
            processor: Med2E3Processor = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except (OSError, ValueError):
            refuse_adapter(pretrained_model_name_or_path, missing="no processor")
            raise
        if processor.question_tokenizer is None:
            where = {name: value for name, value in kwargs.items() if name in HUB_SETTINGS}
            where["subfolder"] = "/".join(filter(None, (kwargs.get("subfolder"), QUESTION_TOKENIZER_FOLDER)))
            place = str(pretrained_model_name_or_path)
            if cached_file(place, "tokenizer_config.json", _raise_exceptions_for_missing_entries=False, **where):
                processor.question_tokenizer = AutoTokenizer.from_pretrained(place, **where)
        return processor


def strip_volume_token(question: str) -> str:
    """The bare question: without "<image3d>" and the space around it."""
    return " ".join(piece.strip() for piece in question.split(VOLUME_TOKEN) if piece.strip())


AutoProcessor.register(Med2E3Config, Med2E3Processor)
