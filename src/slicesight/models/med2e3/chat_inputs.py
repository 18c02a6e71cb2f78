"""How do conversations become the model's inputs, and how does `apply_chat_template` give the model's own prompts?

B conversations, M volumes per prompt, V volumes (V, 1, N, H, W), Q text-encoder tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import BatchFeature

from slicesight.errors import InputError, ModelError
from slicesight.models.arguments import check_choice
from slicesight.models.med2e3.chat import Conversation, read_messages
from slicesight.models.med2e3.loss import IGNORED
from slicesight.models.med2e3.matching import check_asked
from slicesight.models.med2e3.prompt_encoding import PromptEncoding, strip_volume_token
from slicesight.models.med2e3.scans import flatten_scans, stack_volumes


class ConversationInputs(PromptEncoding):
    """The part of a processor that puts prompts and scans together; `Med2E3Processor` is the whole."""

    grid: dict[str, Any] | None

    def encode_conversations(
        self,
        conversations: Sequence[Conversation],
        *,
        volumes: Any = None,
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

    def encode_questions(self, questions: Sequence[str]) -> dict[str, Tensor]:
        """The bare questions for a text encoder, question_ids and question_ids_mask (B, Q); nothing without one."""
        if self.question_tokenizer is None:
            return {}
        for question in questions:
            self.check_question(question)
        bare = [strip_volume_token(question) for question in questions]
        tokens = self.question_tokenizer(bare, padding=True, return_tensors="pt", split_special_tokens=True)
        return {"question_ids": tokens["input_ids"], "question_ids_mask": tokens["attention_mask"]}

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

    def apply_chat_template(
        self,
        conversation: Any,
        chat_template: str | None = None,
        tools: Any = None,
        documents: Any = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool | str = False,
        return_assistant_tokens_mask: bool = False,
        tokenize: bool = False,
        return_tensors: Any = "auto",
        return_dict: bool = False,
        load_audio_from_video: bool = False,
        processor_kwargs: dict[str, Any] | None = None,
        sanitize_control_tokens: bool = True,
        **kwargs: Any,
    ) -> Any:
        """Messages, or a list of conversations, as prompts: text, or with tokenize=True the model's inputs.

        Args:
            conversation: messages with scans as parts (chat.py). An answer at the end is a finished one, or with
                continue_final_message the beginning of the one to generate.
            processor_kwargs: volumes, for places in the messages that name none; padding_side.
            sanitize_control_tokens: what a user wrote is text in any case.

        Raises:
            InputError: messages that cannot be read, tools, documents, or a chat template that is not this model's.
        """
        if tools or documents or load_audio_from_video:
            raise InputError("this model calls no tools, reads no documents and hears nothing; leave these out.")
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
        turns: list[Any] = [first, {"role": "assistant", "content": "Yes."}, {"role": "user", "content": "How large?"}]
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
