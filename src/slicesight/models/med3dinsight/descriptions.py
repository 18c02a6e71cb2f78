"""Which text describes a slice? A 2D multimodal model's caption, or a template over what is known.

Captions are kept in a JSONL file, a line per picture and question as soon as it is answered, so that a stopped run
goes on where it stopped. Every text carries its source; what comes from a label map is always "annotation-derived".
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor

from slicesight.errors import ModelError
from slicesight.models.library_fetch import fetched
from slicesight.volumes.volume import Plane

ANNOTATION_DERIVED = "annotation-derived"
SMALL, LARGE = 0.01, 0.05
"""Shares of a slice's foreground at which a structure stops being small and begins to be large."""
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Structure:
    """A labelled structure in a slice: share of the body's pixels, centre as fractions of the body's box."""

    label: int
    share: float
    row: float
    column: float


@dataclass(frozen=True)
class SlicePlace:
    """Slice `index` of the `count` of its plane. at: of a crop's slice, how far along the whole scan it lies."""

    plane: Plane
    index: int
    count: int
    at: float | None = None

    @property
    def fraction(self) -> float:
        """How far along the stack its centre lies, 0 to 1; in the whole scan, also where the stack is a crop's."""
        return (self.index + 0.5) / self.count if self.at is None else self.at

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        own = {"plane": self.plane, "index": self.index, "count": self.count}
        return own if self.at is None else {**own, "at": self.at}


def describe_place(place: SlicePlace, *, modality: str, region: str) -> str:
    """The template of plane and place alone: knows nothing of the picture's content."""
    ends = {
        "axial": "from its lower to its upper end",
        "coronal": "from its front to its back",
        "sagittal": "from the patient's right to the left",
    }
    article = "A" if place.plane != "axial" else "An"
    kind = modality if modality != "unknown" else "medical"
    percent = round(100 * place.fraction)
    return f"{article} {place.plane} {kind} slice of the {region}, {percent} % of the way {ends[place.plane]}."


def describe_structures(place: SlicePlace, structures: Iterable[Structure], names: dict[str, str]) -> str:
    """The template over a label map: annotation-derived, whatever it is used for."""
    named = [
        f"{names.get(str(found.label), f'structure {found.label}')} ({_size(found)}, {_where(place.plane, found)})"
        for found in structures
    ]
    return f"It shows {', '.join(named)}." if named else "It shows no labelled structure."


class Captioner:
    """Any Hugging Face image-text-to-text model, by name or folder, asked greedily."""

    def __init__(self, name: str, *, max_new_tokens: int, device: str | torch.device = "cpu") -> None:
        try:
            self.processor = AutoProcessor.from_pretrained(name)
            model: Any = fetched(lambda: AutoModelForImageTextToText.from_pretrained(name, dtype="auto"), name=name)
        except (OSError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ModelError(
                f"captioner {name}: cannot be loaded ({reason}); name an image-text-to-text model or its folder"
            ) from error
        self.model = model.to(device).eval()
        self.name, self.max_new_tokens = name, max_new_tokens
        tokenizer = getattr(self.processor, "tokenizer", self.processor)
        tokenizer.padding_side = "left"  # generation goes on from the last token
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        if self.model.generation_config.pad_token_id is None:
            self.model.generation_config.pad_token_id = tokenizer.pad_token_id

    @torch.inference_mode()
    def describe(self, pictures_SPP: NDArray[np.uint8], prompts: Sequence[str]) -> list[str]:
        """One text per grey picture."""
        images: list[Any] = [Image.fromarray(picture).convert("RGB") for picture in pictures_SPP]
        if getattr(self.processor, "chat_template", None):
            chats = [
                [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}]
                for prompt in prompts
            ]
            prompts = [self.processor.apply_chat_template(chat, add_generation_prompt=True) for chat in chats]
            images = [[image] for image in images]
        batch = self.processor(images=images, text=list(prompts), padding=True, return_tensors="pt").to(
            self.model.device
        )
        if "pixel_values" in batch:
            batch["pixel_values"] = batch["pixel_values"].to(self.model.dtype)
        ids = self.model.generate(**batch, max_new_tokens=self.max_new_tokens, do_sample=False)
        first = repeated_length(ids, batch["input_ids"])
        texts = self.processor.batch_decode(ids[:, first:], skip_special_tokens=True)
        return [" ".join(text.split()) for text in texts]


def repeated_length(ids: Tensor, prompt: Tensor) -> int:
    """How many tokens of an answer repeat the question: all of them, all but a closing one (BLIP), or none."""
    for length in (prompt.shape[1], prompt.shape[1] - 1):
        if ids.shape[1] >= length and torch.equal(ids[:, :length], prompt[:, :length]):
            return length
    return 0


class CaptionCache:
    """captions.jsonl: {"key", "captioner", "prompt", "text"} a line; the key names picture, prompt and model."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.texts: dict[str, str] = {}
        if not path.is_file():
            return
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]  # a line cut short by a crash is asked again
        for line in whole.decode("utf-8").split("\n")[:-1]:
            facts = json.loads(line)
            self.texts[facts["key"]] = facts["text"]
        if len(whole) < len(content):
            with path.open("r+b") as file:
                file.truncate(len(whole))

    def add(self, key: str, *, captioner: str, prompt: str, text: str) -> None:
        """Keep an answer, on disk before it is used."""
        line = {"key": key, "captioner": captioner, "prompt": prompt, "text": text}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self.texts[key] = text


def caption_key(picture_PP: NDArray[np.uint8], prompt: str, *, captioner: str, max_new_tokens: int) -> str:
    """What an answer depends on, as 32 hexadecimal digits."""
    digest = hashlib.sha256(np.ascontiguousarray(picture_PP).tobytes())
    digest.update(json.dumps([list(picture_PP.shape), prompt, captioner, max_new_tokens]).encode())
    return digest.hexdigest()[:32]


def caption_all(
    pictures: Iterable[tuple[NDArray[np.uint8], str]],
    *,
    captioner: str,
    max_new_tokens: int,
    batch_size: int,
    cache: CaptionCache,
    device: str | torch.device = "cpu",
    total: int,
    progress: Progress | None = None,
) -> list[str]:
    """The text of every (picture, prompt), in order; only what the cache lacks is asked, batch by batch."""
    keys: list[str] = []
    waiting: dict[str, tuple[NDArray[np.uint8], str]] = {}
    model: Captioner | None = None

    def ask() -> None:
        nonlocal model
        if not waiting:
            return
        model = model or Captioner(captioner, max_new_tokens=max_new_tokens, device=device)
        texts = model.describe(np.stack([picture for picture, _ in waiting.values()]), [p for _, p in waiting.values()])
        for (key, (_, prompt)), text in zip(waiting.items(), texts, strict=True):
            cache.add(key, captioner=captioner, prompt=prompt, text=text)
        waiting.clear()

    for number, (picture, prompt) in enumerate(pictures, start=1):
        key = caption_key(picture, prompt, captioner=captioner, max_new_tokens=max_new_tokens)
        keys.append(key)
        if key not in cache.texts:
            waiting[key] = (picture, prompt)
        if len(waiting) == batch_size:
            ask()
        if progress:
            progress(number, total)
    ask()
    return [cache.texts[key] for key in keys]


def _size(found: Structure) -> str:
    return "small" if found.share < SMALL else "large" if found.share > LARGE else "medium-sized"


def _where(plane: Plane, found: Structure) -> str:
    """The third of the body that its centre lies in, in the patient's own directions."""
    columns = ("in the front", "in the back") if plane == "sagittal" else ("on the patient's right", "on the left")
    rows = ("in front", "behind") if plane == "axial" else ("in the upper part", "in the lower part")
    words = [
        words[0] if place < 1 / 3 else words[1]
        for place, words in ((found.row, rows), (found.column, columns))
        if not 1 / 3 <= place <= 2 / 3
    ]
    return " ".join(words) if words else "in the middle"
