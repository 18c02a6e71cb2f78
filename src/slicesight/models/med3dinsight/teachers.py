"""What do the frozen 2D models make of a picture and of a text? One vector each.

One CLIP-like model (its image and text features), or an image encoder and a text encoder of their own, each by Hugging
Face name or folder. "pixels" and "words" need no weights: a coarse picture, and a bag of hashed words; they
stand in where a test has no model, and show in a result what a slice's mere look is worth.

S pictures or texts, P picture pixels, O components.
"""

from __future__ import annotations

import inspect
import re
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer, PreTrainedConfig

from slicesight.errors import InputError, ModelError
from slicesight.models.library_fetch import fetched

PIXELS, WORDS = "pixels", "words"
COARSE_SIDE, COARSE_GRID = 16, 4
NUM_WORD_BINS = 256
DEFAULT_SIDE = 224
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ImageEncoder:
    """A frozen 2D encoder: a CLIP-like model's image features, else the pooled output, else the mean token."""

    def __init__(
        self, name: str, *, side: int | None = None, device: str | torch.device = "cpu", bf16: bool = False
    ) -> None:
        self.name, self.model = name, load_frozen(name, device)
        vision = getattr(self.model.config, "vision_config", self.model.config)
        shown = _find_processor(name)
        own_side = _one_number(getattr(vision, "image_size", None)) or DEFAULT_SIDE
        self.side = side or _one_number(getattr(shown, "size", None)) or own_side
        mean = getattr(shown, "image_mean", None) or IMAGENET_MEAN
        std = getattr(shown, "image_std", None) or IMAGENET_STD
        self.mean, self.std = (torch.tensor(value, device=device).view(1, -1, 1, 1) for value in (mean, std))
        self.is_clip = hasattr(self.model, "get_image_features")
        takes = inspect.signature(self.model.get_image_features if self.is_clip else self.model.forward).parameters
        resized = self.side != own_side and "interpolate_pos_encoding" in takes
        self.extra: dict[str, Any] = {"interpolate_pos_encoding": True} if resized else {}
        self.bf16 = bf16

    def encode(self, pictures_SPP: NDArray[np.uint8]) -> NDArray[np.float32]:
        """One vector per grey picture -> (S, O), not normalised."""
        with torch.inference_mode(), self._autocast():
            encode = self.model.get_image_features if self.is_clip else self.model
            return _pooled(encode(pixel_values=self._pixels(pictures_SPP), **self.extra))

    def encode_densely(self, pictures_SPP: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """One vector per picture (S, O), and one per patch of its square grid (S, G, G, C), class tokens left out.

        A transformer's last hidden states behind those of its class and register tokens, as DINOv2 names them (Oquab et
        al. 2023, "patch tokens"); a convolutional network's last feature map.
        """
        with torch.inference_mode(), self._autocast():
            if self.is_clip:
                pixels = self._pixels(pictures_SPP)
                found = self.model.vision_model(pixel_values=pixels, **self.extra)
                vectors = _pooled(self.model.get_image_features(pixel_values=pixels, **self.extra))
            else:
                found = self.model(pixel_values=self._pixels(pictures_SPP), **self.extra)
                vectors = _pooled(found)
        states = found.last_hidden_state.float()
        if states.ndim == 4:
            return vectors, states.permute(0, 2, 3, 1).cpu().numpy()
        patch = _one_number(getattr(getattr(self.model.config, "vision_config", self.model.config), "patch_size", None))
        grid = self.side // (patch or self.side)
        if not patch or states.shape[1] < grid * grid:
            raise ModelError(
                f"image encoder {self.name}: its {states.shape[1]} tokens are no grid of patches of a picture of "
                f"{self.side} pixels; set dense_components: 0, or name a ViT or a ResNet"
            )
        return vectors, states[:, -grid * grid :].unflatten(1, (grid, grid)).cpu().numpy()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.bf16)

    def _pixels(self, pictures_SPP: NDArray[np.uint8]) -> Tensor:
        grey = torch.from_numpy(pictures_SPP).to(self.model.device)[:, None].float() / 255
        sized = functional.interpolate(
            grey, size=(self.side,) * 2, mode="bilinear", antialias=True, align_corners=False
        )
        pixels: Tensor = ((sized.expand(-1, 3, -1, -1) - self.mean) / self.std).to(self.model.dtype)
        return pixels


class TextEncoder:
    """A frozen text encoder: a CLIP-like model's text features, else the mean of the tokens' last states."""

    def __init__(self, name: str, *, device: str | torch.device = "cpu") -> None:
        self.model: Any = load_frozen(name, device)
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(name)
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"text encoder {name}: has no tokenizer ({_short(error)}); name another model") from error
        self.is_clip = hasattr(self.model, "get_text_features")
        config = getattr(self.model.config, "text_config", self.model.config)
        self.max_length = min(int(getattr(config, "max_position_embeddings", 512)), self.tokenizer.model_max_length)

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One vector per text -> (S, O), not normalised; what a text has too much is cut off."""
        padding = "max_length" if self.model.config.model_type.startswith("siglip") else True  # as SigLIP was trained
        batch = self.tokenizer(
            list(texts),
            padding=padding,
            truncation=True,
            max_length=self.max_length,
            return_tensors="pt",
            split_special_tokens=True,  # a caption stays text, whatever it spells
        ).to(self.model.device)
        if self.is_clip:
            return _pooled(self.model.get_text_features(**batch))
        states_STC = self.model(**batch).last_hidden_state.float()
        mask_ST1 = batch["attention_mask"].unsqueeze(-1).float()
        means_SC: Tensor = (states_STC * mask_ST1).sum(dim=1) / mask_ST1.sum(dim=1)
        return means_SC.cpu().numpy()


class CoarsePixels:
    """The stand-in for an image encoder: the picture at 16 x 16, its mean taken off."""

    def encode(self, pictures_SPP: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(S, 256)."""
        grey = torch.from_numpy(pictures_SPP)[:, None].float() / 255
        coarse = functional.interpolate(grey, size=(COARSE_SIDE,) * 2, mode="bilinear", antialias=True).flatten(1)
        return (coarse - coarse.mean(dim=1, keepdim=True)).numpy()

    def encode_densely(self, pictures_SPP: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The vectors, and of each of 4 x 4 patches its 16 grey values -> (S, 256), (S, 4, 4, 16)."""
        vectors = self.encode(pictures_SPP)
        patch = COARSE_SIDE // COARSE_GRID
        grid = vectors.reshape(-1, COARSE_GRID, patch, COARSE_GRID, patch).transpose(0, 1, 3, 2, 4)
        return vectors, np.ascontiguousarray(grid.reshape(-1, COARSE_GRID, COARSE_GRID, patch * patch))


class HashedWords:
    """The stand-in for a text encoder: how often each of 256 hash values of a word occurs."""

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(S, 256)."""
        counts = np.zeros((len(texts), NUM_WORD_BINS), np.float32)
        for row, text in zip(counts, texts, strict=True):
            for word in re.findall(r"\w+", text.lower()):
                row[zlib.crc32(word.encode()) % NUM_WORD_BINS] += 1
        return counts


def open_image_encoder(
    name: str, *, side: int | None = None, device: str | torch.device = "cpu", bf16: bool = False
) -> ImageEncoder | CoarsePixels:
    """The image encoder of that name or folder, or the stand-in."""
    return CoarsePixels() if name == PIXELS else ImageEncoder(name, side=side, device=device, bf16=bf16)


def open_text_encoder(
    name: str | None, *, image_encoder: str, device: str | torch.device = "cpu"
) -> TextEncoder | HashedWords:
    """The text encoder of that name or folder, or the stand-in; None takes the image encoder's own text side.

    Raises:
        InputError: None, and the image encoder has no text side.
    """
    if name == WORDS:
        return HashedWords()
    if name is not None:
        return TextEncoder(name, device=device)
    check_text_side(image_encoder)
    return TextEncoder(image_encoder, device=device)


def check_text_side(image_encoder: str) -> None:
    """Raises InputError where an image encoder cannot encode texts as well."""
    if image_encoder == PIXELS or not hasattr(read_config(image_encoder), "text_config"):
        raise InputError(
            f"text_encoder is not set, and image_encoder {image_encoder} has no text side; set text_encoder, or "
            "text: none"
        )


def read_config(name: str) -> PreTrainedConfig:
    """The configuration of a model, which is quick to find out whether the name is right."""
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"model {name}: cannot be found ({_short(error)}); name a folder or a hub model") from error
    return config


def load_frozen(name: str, device: str | torch.device) -> Any:
    """A Hugging Face model in evaluation mode."""
    try:
        model: Any = fetched(lambda: AutoModel.from_pretrained(name), name=name)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"encoder {name}: cannot be loaded ({_short(error)}); name a folder or a hub model") from error
    return model.to(device).eval().requires_grad_(False)


def _find_processor(name: str) -> Any:
    """The model's image processor, or None where it has none: then ImageNet's mean and deviation."""
    try:
        return AutoImageProcessor.from_pretrained(name)
    except (OSError, ValueError, KeyError):
        return None


def _pooled(found: Any) -> NDArray[np.float32]:
    if not isinstance(found, Tensor):
        pooled = getattr(found, "pooler_output", None)
        found = found.last_hidden_state.mean(dim=1) if pooled is None else pooled
    vectors: NDArray[np.float32] = found.flatten(1).float().cpu().numpy()
    return vectors


def _one_number(size: Any) -> int | None:
    """The side of a square from 224, (224, 224), {"height": 224, ...} or {"shortest_edge": 224}."""
    if hasattr(size, "get"):
        size = size.get("height") or size.get("shortest_edge")
    if isinstance(size, list | tuple):
        size = size[0]
    return int(size) if size else None


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
