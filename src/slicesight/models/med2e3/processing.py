"""How do a scan and a question become the model's inputs? The scan on the grid (scans.py), the text as token ids.

The prompt is written in prompt_encoding.py; chat_inputs.py reads messages in Hugging Face's chat format.
B prompts of T tokens, M volumes per prompt, V volumes (V, 1, N, H, W), Q text-encoder tokens.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

from torch import Tensor
from transformers import AutoProcessor, AutoTokenizer, BatchFeature, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.utils.hub import cached_file

from slicesight.errors import InputError, ModelError
from slicesight.models.arguments import check_choice
from slicesight.models.folder import refuse_adapter
from slicesight.models.med2e3.chat import Conversation, split_rendered, write_chat_template
from slicesight.models.med2e3.chat_inputs import ConversationInputs
from slicesight.models.med2e3.configuration import Med2E3Config
from slicesight.models.med2e3.matching import count_visual_tokens
from slicesight.models.med2e3.prompt_encoding import EncodedPrompt, strip_volume_token
from slicesight.models.med2e3.prompt_templates import TEMPLATES, VOLUME_TOKEN, PromptTemplate
from slicesight.models.med2e3.scans import VolumeInput
from slicesight.models.med2e3.text_tokens import TextTokenizer, find_opening_ids

__all__ = ["EncodedPrompt", "Med2E3Processor", "strip_volume_token"]

QUESTION_TOKENIZER_FOLDER = "question_tokenizer"
HUB_SETTINGS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "token")


class Med2E3Processor(ConversationInputs):
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
        cast(Any, super()).__init__(tokenizer, chat_template=write_chat_template(self.prompt))
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
        videos: None = None,
        audio: None = None,
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
        check_choice(videos, "videos", (None,))
        check_choice(audio, "audio", (None,))
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

    @property
    def question_padding(self) -> int:
        """The id that fills up question_ids."""
        found = None if self.question_tokenizer is None else self.question_tokenizer.pad_token_id
        return 0 if found is None else int(found)

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
            there = {"_raise_exceptions_for_missing_entries": False}
            is_here = Path(place, str(where["subfolder"])).is_dir()
            if is_here or cached_file(place, "tokenizer_config.json", **there, **where):
                # the folder has no config.json to look for, which offline would be an error
                own = AutoTokenizer.from_pretrained(place, config=PreTrainedConfig(), **where)
                processor.question_tokenizer = own
        return processor


AutoProcessor.register(Med2E3Config, Med2E3Processor)
