"""How do messages or texts become a prompt in vLLM? By the model's own processor, tokens and items together.

vLLM's usual way renders a chat template and tokenises the text. That would forget which tokens are the question, and
let a user's text spell a place for a scan; here the model's processor writes the tokens from the messages.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, cast

from vllm import envs
from vllm.multimodal.media.connector import MEDIA_CONNECTOR_REGISTRY
from vllm.renderers.hf import HfRenderer

from slicesight.errors import InputError
from slicesight.models.med2e3.chat import Conversation, read_messages, split_rendered
from slicesight.volumes.grid import GridVolume
from slicesight_vllm.inputs import VOLUME, AskInput, InputMaker
from slicesight_vllm.media import SCAN_TYPES, ScanMediaIO, find_scan, list_parts
from slicesight_vllm.processing import load_maker


class Med2E3Renderer(HfRenderer):
    """Takes the place of the usual renderer for models of this kind (settings.py)."""

    @cached_property
    def _lock(self) -> threading.Lock:
        """A tokenizer is one thread's at a time."""
        return threading.Lock()

    @cached_property
    def maker(self) -> InputMaker:
        """What writes this model's inputs."""
        return load_maker(self.model_config)

    @cached_property
    def _connector(self) -> Any:
        return MEDIA_CONNECTOR_REGISTRY.load(
            envs.VLLM_MEDIA_CONNECTOR,
            media_io_kwargs={},
            allowed_local_media_path=self.model_config.allowed_local_media_path,
            allowed_media_domains=self.model_config.allowed_media_domains,
        )

    def render_messages(self, messages: Any, params: Any) -> tuple[list[Any], Any]:
        """The conversation as it was sent, and its prompt.

        Raises:
            InputError: messages that this model does not read, or a scan that cannot be read.
        """
        settings = params.chat_template_kwargs
        if settings.get("tools"):
            raise InputError("this model calls no tools; leave tools out.")
        asked, _ = self.ask_with_grids(messages, is_continued=bool(settings.get("continue_final_message")))
        return plain(messages), asked.for_engine

    async def render_messages_async(self, messages: Any, params: Any) -> tuple[list[Any], Any]:
        """The same beside the server's other work: reading a scan takes a while."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, self.render_messages, messages, params)

    def ask_with_grids(
        self, messages: Sequence[Mapping[str, Any]], *, is_continued: bool = False
    ) -> tuple[AskInput, list[GridVolume]]:
        """What the model is asked by messages in OpenAI's shape, and the scans on its grid, in order.

        Raises:
            InputError: as of `render_messages`.
        """
        read = with_scans(messages, self._fetch)
        conversation = read_messages(read, self.maker.processor.prompt, is_continued=is_continued)
        if conversation.answer is not None:
            raise InputError(
                "the messages end with an answer; end them with a question, or ask to go on from it "
                "(continue_final_message)."
            )
        with self._lock:
            grids = [self.maker.put_on_grid(scan) for scan in conversation.scans]
            asked = self.maker.ask(
                conversation.question,
                grids,
                history=conversation.history,
                system=conversation.system,
                prefix=conversation.prefix,
            )
        return asked, grids

    def _fetch(self, link: Any) -> Any:
        """A scan behind a link; an object as it is."""
        if not isinstance(link, str):
            return link
        try:
            return self._connector.load_from_url(link, ScanMediaIO(), fetch_timeout=envs.VLLM_IMAGE_FETCH_TIMEOUT)
        except RuntimeError as error:  # local files are not let in
            raise InputError(str(error)) from error

    def _tokenize_prompt(self, prompt: Any, params: Any) -> Any:
        """A text: a bare question, or one in the model's template; scans beside it are `multi_modal_data["volume"]`."""
        found = dict(prompt)
        data = dict(found.pop("multi_modal_data", None) or {})
        scans = data.pop(VOLUME, [])
        if data:
            raise InputError(f"multi_modal_data holds {', '.join(data)}; a text's scans are given as {VOLUME!r}.")
        scans = list(scans) if isinstance(scans, (list, tuple)) else [scans]
        text = found["prompt"]
        conversation = split_rendered(text, self.maker.processor.prompt) or Conversation(question=text)
        with self._lock:
            asked = self.maker.ask(conversation.question, scans)
        return {**found, **asked.for_engine}


def plain(messages: Any) -> list[Any]:
    """The conversation as vLLM keeps it: roles and words."""
    found = []
    for message in messages:
        parts = list_parts(message)
        texts = [
            str(part.get("text", "")) for part in parts if isinstance(part, Mapping) and part.get("type") == "text"
        ]
        found.append({"role": message.get("role"), "content": "\n".join(texts) if parts else message.get("content")})
    return found


def with_scans(messages: Sequence[Mapping[str, Any]], fetch: Callable[[Any], Any]) -> list[dict[str, Any]]:
    """The messages with their scans read, in the form that the package's processor takes."""
    found = []
    for message in messages:
        parts = list_parts(message)
        content: Any = message.get("content") if not parts else [_with_scan(part, fetch) for part in parts]
        found.append({"role": message.get("role"), "content": content})
    return found


def _with_scan(part: Any, fetch: Callable[[Any], Any]) -> Any:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind not in SCAN_TYPES:
        return part
    return {"type": VOLUME, VOLUME: cast(Any, fetch(find_scan(part)))}
