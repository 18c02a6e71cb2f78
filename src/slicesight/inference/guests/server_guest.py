"""How does a model behind a server in OpenAI's shape answer about pictures, and what can be known of its evidence?

POST URL/chat/completions with the pictures as PNG in data addresses. Where the server tells log-probabilities, an
answer is compared token by token with what it says when slices are blank, up to the first token where the two part:
there the answer's token has the probability among the likeliest that are told, or at most the least of those. Where it
tells none, how much of the answer is still said. Key: SLICESIGHT_GUEST_KEY, else OPENAI_API_KEY.
"""

from __future__ import annotations

import base64
import hashlib
import io
import ipaddress
import json
import os
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from slicesight.data.choices import listed_choices, plain, read_choice
from slicesight.errors import InputError, ModelError
from slicesight.inference.guests.guest import GuestQuestion, Measure, OnText, Said, compose, system_words
from slicesight.inference.occlusion import Likelihood
from slicesight.models.guests.preset import Preset

if TYPE_CHECKING:
    from PIL.Image import Image

TIMEOUT_S, TRIES, LONGEST_WAIT_S = 600.0, 4, 30.0
MOST_BYTES = 32 * 2**20
TOP_LOGPROBS = 20
AT_ONCE = 4
"""Masks asked side by side."""
KEYS = ("SLICESIGHT_GUEST_KEY", "OPENAI_API_KEY")
OPTIONS = {"do_sample", "temperature", "top_p", "seed"}
ONLY_A_CHOICE = "\nAnswer with the letter of one choice and nothing else."


class ServerGuest:
    """A model by its server's address and its name there.

    Raises:
        ModelError: nobody answers there, or it has no such model.
    """

    def __init__(self, *, url: str, model: str, preset: Preset) -> None:
        self.url, self.model, self.preset = url.rstrip("/"), model, preset
        self.tells_log_probs = True
        self._limit_name = "max_tokens"
        self._has_system_role = True

    @property
    def name(self) -> str:
        return self.model

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def is_this_machine(self) -> bool:
        """Whether what is sent stays here."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def answer(self, asked: GuestQuestion, on_text: OnText | None = None) -> Said:
        """One request; the server's answer comes whole.

        Raises:
            InputError: the server refuses it, or answers in another shape; an answer that is begun, which OpenAI's
                shape has no place for.
        """
        if asked.prefix:
            raise InputError(
                f"{self.name} is asked through its server, which goes on with no begun answer; leave it out."
            )
        said = self._ask(asked, None)
        if asked.only_choices:
            said = self._held_to_choices(asked, said)
        if on_text is not None:
            on_text(lambda: said.text)
        return said

    def likelihood(self, asked: GuestQuestion, said: Said) -> tuple[Likelihood, Measure] | None:
        """By log-probabilities where the server tells them, else by agreement."""
        if asked.shown is None or not said.text:
            return None
        if said.log_probs:
            return self._by_masks(
                asked, lambda masked: log_probability(said, masked), whole=sum(said.log_probs)
            ), "first tokens"
        return self._by_masks(asked, lambda masked: agreement(said.text, masked.text), whole=None), "agreement"

    def check_options(self, options: dict[str, Any]) -> None:
        """Raises InputError for an option that a server has not."""
        for name in options:
            if name not in OPTIONS:
                raise InputError(f"{name} is no option of a server's model; expected {', '.join(sorted(OPTIONS))}.")

    def decode(self, token_ids: Sequence[int]) -> str:
        """Raises InputError: a server gives no tokens."""
        raise InputError(f"{self.name} runs on a server, which gives no tokens to decode.")

    def digest(self) -> str:
        """Of address, name and preset; which weights stand behind them only the server knows."""
        return hashlib.sha256(repr((self.url, self.model, self.preset)).encode()).hexdigest()

    def _ask(self, asked: GuestQuestion, kept_N: NDArray[np.bool_] | None) -> Said:
        pictures = [] if asked.shown is None else asked.shown.pictures(kept_N)
        body = {
            "model": self.model,
            "messages": self._messages(asked, pictures),
            self._limit_name: asked.max_new_tokens,
            **_sampling(asked.options),
        }
        if self.tells_log_probs:
            body |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
        try:
            found = request_json(f"{self.url}/chat/completions", body)
        except RefusedError as error:
            if self.tells_log_probs and "logprobs" in error.message:
                self.tells_log_probs = False
                return self._ask(asked, kept_N)
            if self._has_system_role and system_words(asked, self.preset) and _names_roles(error):
                self._has_system_role = False
                return self._ask(asked, kept_N)
            if self._limit_name == "max_tokens" and "max_completion_tokens" in error.message:
                self._limit_name = "max_completion_tokens"
                return self._ask(asked, kept_N)
            raise InputError(
                f"{self.name} at {self.url} refuses the question ({error.status}: {error.message}); a model that takes "
                "no pictures, or not so many, cannot be a guest with this --preset."
            ) from None
        return self._read(found)

    def _read(self, found: Mapping[str, Any]) -> Said:
        try:
            choice = found["choices"][0]
            text = choice["message"]["content"] or ""
            told = ((choice.get("logprobs") or {}).get("content")) or []
            tokens = [str(one["token"]) for one in told]
            log_probs = [float(one["logprob"]) for one in told]
            usage = found.get("usage") or {}
            likeliest = tuple(
                {str(one["token"]): float(one["logprob"]) for one in place.get("top_logprobs") or ()} for place in told
            )
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"{self.url}: what came back is no chat completion ({type(error).__name__}: {error}); expected "
                "OpenAI's shape, {choices: [{message: {content}}]}."
            ) from None
        return ServerSaid(
            text=self._without_thinking(str(text)),
            tokens=tuple(tokens),
            log_probs=tuple(log_probs),
            likeliest=likeliest,
            num_prompt_tokens=int(usage.get("prompt_tokens") or 0),
            num_answer_tokens=int(usage.get("completion_tokens") or len(tokens)),
            is_cut=choice.get("finish_reason") == "length",
        )

    def _messages(self, asked: GuestQuestion, pictures: Sequence[Image]) -> list[dict[str, Any]]:
        left = iter(pictures)
        messages = compose(asked, self.preset, has_system_role=self._has_system_role)
        if asked.only_choices:
            messages[-1]["content"].append({"type": "text", "text": ONLY_A_CHOICE})
        for message in messages:
            parts = [_image_part(next(left)) if part["type"] == "image" else part for part in message["content"]]
            only_text = all(part["type"] == "text" for part in parts)
            message["content"] = "".join(part["text"] for part in parts).strip() if only_text else parts
        return messages

    def _held_to_choices(self, asked: GuestQuestion, said: Said) -> Said:
        """The choice it names, else the likeliest of their letters as its first token; else what it said."""
        choices = listed_choices(asked.question)
        letter = read_choice(said.text, tuple(choices.values())).letter
        if letter is None and isinstance(said, ServerSaid) and said.likeliest:
            told = {token.strip().strip("."): value for token, value in said.likeliest[0].items()}
            known = {one: told[one] for one in choices if one in told}
            letter = max(known, key=lambda one: known[one]) if known else None
        if letter not in choices:
            return said
        return ServerSaid(
            text=f"{letter}. {choices[letter]}",
            num_prompt_tokens=said.num_prompt_tokens,
            num_answer_tokens=said.num_answer_tokens,
        )

    def _by_masks(self, asked: GuestQuestion, value: Any, *, whole: float | None) -> Likelihood:
        """How likely an answer is under each mask; `whole` where nothing is blanked and it is known already."""

        def of_mask(kept_N: NDArray[np.bool_]) -> float:
            if whole is not None and kept_N.all():
                return whole
            return float(value(self._ask(asked, kept_N)))

        def measure(kept_VN: NDArray[np.bool_]) -> NDArray[np.float64]:
            with ThreadPoolExecutor(AT_ONCE, "guest") as threads:
                return np.array(list(threads.map(of_mask, kept_VN)), dtype=np.float64)

        return measure

    def _without_thinking(self, text: str) -> str:
        if not self.preset.thinking:
            return text.strip()
        first, last = self.preset.thinking
        _, mark, rest = text.rpartition(last)
        if mark:
            return rest.strip()
        return "" if text.lstrip().startswith(first) else text.strip()


class ServerSaid(Said):
    """likeliest: of each place the log-probabilities that the server told."""

    likeliest: tuple[dict[str, float], ...]

    def __init__(self, *, likeliest: tuple[dict[str, float], ...] = (), **said: Any) -> None:
        super().__init__(**said)
        object.__setattr__(self, "likeliest", likeliest)


class RefusedError(Exception):
    """A server's answer that is none: its status and what it says."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status, self.message = status, message


def find_models(url: str) -> list[str] | None:
    """The names a server has; None where it does not tell.

    Raises:
        ModelError: nobody answers there, or a key is missing.
    """
    try:
        found = request_json(f"{url.rstrip('/')}/models", None)
    except RefusedError as error:
        if error.status in (401, 403):
            raise ModelError(
                f"{url}: the server wants a key ({error.status}); put it into {KEYS[0]} or {KEYS[1]}."
            ) from None
        return None
    entries = found.get("data")
    if not isinstance(entries, list):
        return None
    return [str(one["id"]) for one in entries if isinstance(one, dict) and "id" in one]


def request_json(url: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
    """POST a body, or GET without one; a busy server is asked again.

    Raises:
        RefusedError: it refuses. ModelError: nobody answers. InputError: no JSON comes back.
    """
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    if key := next((os.environ[name] for name in KEYS if os.environ.get(name)), None):
        headers["Authorization"] = f"Bearer {key}"
    data = None if body is None else json.dumps(body).encode()
    for attempt in range(1, TRIES + 1):
        request = urllib.request.Request(url, data=data, headers=headers)  # noqa: S310  # http and https only: `loading.py`
        try:
            with _OPENER.open(request, timeout=TIMEOUT_S) as response:
                content = response.read(MOST_BYTES + 1)
            break
        except urllib.error.HTTPError as error:
            if error.code in (429, 503) and attempt < TRIES:
                time.sleep(_wait_s(error.headers.get("Retry-After"), attempt))
                continue
            raise RefusedError(error.code, _message_of(error.read(MOST_BYTES))) from None
        except (urllib.error.URLError, OSError) as error:
            reason = getattr(error, "reason", error)
            raise ModelError(f"{url}: nobody answers there ({reason}); start the server or mend the address.") from None
    try:
        if len(content) > MOST_BYTES:
            raise ValueError(f"more than {MOST_BYTES} bytes")
        found = json.loads(content)
    except ValueError as error:
        raise InputError(f"{url}: what came back is no JSON ({error}); is it a server in OpenAI's shape?") from None
    if not isinstance(found, dict):
        raise InputError(f"{url}: what came back is a {type(found).__name__}; expected an object in OpenAI's shape.")
    return found


def _names_roles(error: RefusedError) -> bool:
    """Whether a server says of its model what a template says that has no place for a system message."""
    words = error.message.lower()
    return error.status < 500 and ("system" in words or "roles must alternate" in words)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A scan goes to the address that was named and to no other."""

    def redirect_request(self, *arguments: Any, **settings: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


def _wait_s(told: str | None, attempt: int) -> float:
    try:
        return min(LONGEST_WAIT_S, max(0.0, float(told or "")))
    except ValueError:
        return min(LONGEST_WAIT_S, float(2**attempt) / 2)


def _message_of(content: bytes) -> str:
    """What a server says about its refusal, in one line."""
    text = content.decode("utf-8", "replace")
    try:
        found = json.loads(text)
        error = found.get("error", found) if isinstance(found, dict) else found
        text = str(error.get("message", error)) if isinstance(error, dict) else str(error)
    except ValueError:
        pass
    return " ".join(text.split())[:200] or "no reason given"


def _sampling(options: Mapping[str, Any]) -> dict[str, Any]:
    """Greedy unless drawing is asked for."""
    if not options.get("do_sample"):
        return {"temperature": 0}
    names = ("temperature", "top_p", "seed")
    return {name: options[name] for name in names if options.get(name) is not None}


def _image_part(picture: Image) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": _data_address(_Hashed(picture))}}


class _Hashed:
    """A picture by identity, so that its PNG is made once however often it is sent."""

    def __init__(self, picture: Image) -> None:
        self.picture = picture

    def __hash__(self) -> int:
        return id(self.picture)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Hashed) and other.picture is self.picture


@lru_cache(maxsize=1024)
def _data_address(hashed: _Hashed) -> str:
    file = io.BytesIO()
    hashed.picture.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def log_probability(said: Said, masked: Said) -> float:
    """The answer's log-probability with slices blank, as far as the two say the same, and as it was beyond."""
    assert isinstance(masked, ServerSaid)
    total: float = sum(said.log_probs)
    for place, (token, before) in enumerate(zip(said.tokens, said.log_probs, strict=True)):
        if place >= len(masked.tokens):  # it stops here, which is told of no token
            break
        if masked.tokens[place] == token:
            total += masked.log_probs[place] - before
            continue
        told = masked.likeliest[place]
        least = min(told.values(), default=masked.log_probs[place])
        total += min(told.get(token, least), masked.log_probs[place]) - before
        break
    return total


def agreement(first: str, second: str) -> float:
    """How much two texts share: F1 of their words, 1 for the same."""
    one, other = Counter(plain(first).split()), Counter(plain(second).split())
    if not one or not other:
        return 1.0 if one == other else 0.0
    return float(2 * (one & other).total() / (one.total() + other.total()))
