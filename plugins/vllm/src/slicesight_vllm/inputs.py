"""How do a scan and a question become what vLLM is given: token ids and two items for each scan?

    head | z_3D | z_2D | question, cue

z_3D is the scan's alone, z_2D follows the question too, and vLLM keeps what an encoder made under the item's hash. So a
scan is two items: "volume", known by the scan's key, gives z_3D; "slices", known by the key and the question, gives
z_2D. A block of keys and values that holds head and z_3D is then the same for every question about the scan.
N slices H x W.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from slicesight.errors import InputError, ModelError
from slicesight.io.loading import read_scan
from slicesight.models.med2e3.configuration import Med2E3Config
from slicesight.models.med2e3.matching import count_visual_tokens
from slicesight.models.med2e3.processing import Med2E3Processor
from slicesight.models.med2e3.prompt_encoding import EncodedPrompt
from slicesight.models.med2e3.scans import VolumeInput, stack_volumes
from slicesight.models.med2e3.vision2d import measure_slice_tokens
from slicesight.volumes.grid import GridSpec, GridVolume, to_grid
from slicesight.volumes.volume import Volume

VOLUME, SLICES = "volume", "slices"


@dataclass(frozen=True, kw_only=True, eq=False)
class ScanInput:
    """A scan on the model's grid. voxels: (1, N, H, W) float32 in [0, 1]; key: SHA-256 of them, in hex."""

    voxels: Tensor = field(repr=False)
    key: str

    @classmethod
    def of(cls, voxels: Tensor) -> ScanInput:
        """voxels: (1, N, H, W)."""
        voxels = voxels.to(torch.float32).contiguous()
        digest = hashlib.sha256(f"{tuple(voxels.shape)}".encode())
        digest.update(voxels.numpy().data)
        return cls(voxels=voxels, key=digest.hexdigest())


@dataclass(frozen=True, kw_only=True, eq=False)
class SlicesInput:
    """A scan and the question that weighs its slices: its tokens, and its tokens for a text encoder where there is one.

    Both are empty where no question changes the weights.
    """

    scan: ScanInput
    question_ids: tuple[int, ...] = ()
    encoder_ids: tuple[int, ...] = ()

    @property
    def key(self) -> str:
        """What its slice scores are known by, hex."""
        written = f"{self.scan.key} {list(self.question_ids)} {list(self.encoder_ids)}"
        return hashlib.sha256(written.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True, eq=False)
class AskInput:
    """One question: prompt is the tokens, visual places included; slices has an item for each scan of a 2D model."""

    prompt: EncodedPrompt = field(repr=False)
    volumes: tuple[ScanInput, ...] = ()
    slices: tuple[SlicesInput, ...] = ()

    @property
    def for_engine(self) -> dict[str, Any]:
        """What `LLM.generate` and `LLMEngine.add_request` take."""
        data = {name: list(items) for name, items in ((VOLUME, self.volumes), (SLICES, self.slices)) if items}
        prompt: dict[str, Any] = {"prompt_token_ids": list(self.prompt.input_ids)}
        return prompt | ({"multi_modal_data": data} if data else {})


@dataclass(frozen=True, kw_only=True)
class VisualTokens:
    """How the S places of a scan divide: the first are z_3D's, the others z_2D's."""

    num_3d: int
    num_2d: int

    @classmethod
    def of(cls, config: Med2E3Config) -> VisualTokens:
        num_2d = measure_slice_tokens(config)[0] if config.needs_2d else 0
        return cls(num_3d=count_visual_tokens(config) - num_2d, num_2d=num_2d)


class InputMaker:
    """Writes what vLLM is given for one model."""

    def __init__(self, config: Med2E3Config, processor: Med2E3Processor) -> None:
        self.config, self.processor = config, processor
        self.tokens = VisualTokens.of(config)
        if sum((self.tokens.num_3d, self.tokens.num_2d)) != processor.num_visual_tokens:
            raise ModelError(
                f"the processor writes {processor.num_visual_tokens} places for a scan, the model reads "
                f"{self.tokens.num_3d + self.tokens.num_2d}; save the processor that belongs to the model."
            )
        num_slices, height, width = config.image_size
        spec = GridSpec.from_dict(
            {"num_slices": num_slices, "height": height, "width": width, **(processor.grid or {})}
        )
        if config.needs_2d and config.planes and spec.plane == "acquired":
            spec = replace(spec, plane="axial")
        self.grid = spec.to_dict()
        self._spec = spec

    def scan(self, given: VolumeInput | ScanInput) -> ScanInput:
        """A file, Volume, grid or array as the encoders read it.

        Raises:
            InputError: it cannot be read, or is not of the model's size.
        """
        if isinstance(given, ScanInput):
            return given
        (voxels_1NHW,) = stack_volumes([given], self.grid)
        return ScanInput.of(check_size(voxels_1NHW, self.config))

    def put_on_grid(self, given: Volume | str | os.PathLike[str] | NDArray[Any]) -> GridVolume:
        """A scan on the model's grid, with where every slice lies; errors as of `scan`."""
        volume = given if isinstance(given, Volume) else read_scan(given)
        return to_grid(volume, self._spec)

    def ask(
        self,
        question: str,
        scans: Sequence[VolumeInput | ScanInput] = (),
        *,
        history: Sequence[tuple[str, str]] = (),
        system: str | None = None,
        prefix: str = "",
    ) -> AskInput:
        """A question about scans, or about none.

        Raises:
            InputError: a scan that cannot be read, or places in the text that are not the scans'.
        """
        read = [self.scan(one) for one in scans]
        prompt = self.processor.encode_prompt(
            question, history=history, num_volumes=len(read), system=system, prefix=prefix
        )
        return self.join(question, prompt, read)

    def join(self, question: str, prompt: EncodedPrompt, scans: Sequence[ScanInput]) -> AskInput:
        """A prompt that was tokenised already, with its scans in order."""
        question_ids: tuple[int, ...] = ()
        encoder_ids: tuple[int, ...] = ()
        if scans and self.config.reads_question:
            marked = zip(prompt.input_ids, prompt.question_mask, strict=True)
            question_ids = tuple(token for token, is_question in marked if is_question)
            if encoded := self.processor.encode_questions([question]):
                encoder_ids = tuple(encoded["question_ids"][0].tolist())
        return AskInput(
            prompt=prompt,
            volumes=tuple(scans) if self.tokens.num_3d else (),
            slices=tuple(
                SlicesInput(scan=scan, question_ids=question_ids, encoder_ids=encoder_ids)
                for scan in (scans if self.tokens.num_2d else ())
            ),
        )


def check_size(voxels: Tensor, config: Med2E3Config) -> Tensor:
    """The voxels, if they are (1, N, H, W) of the model's size.

    Raises:
        InputError: they are not.
    """
    if tuple(voxels.shape) != (1, *config.image_size):
        wanted = ", ".join(map(str, config.image_size))
        raise InputError(
            f"a scan on the grid has shape {tuple(voxels.shape)}; this model reads (1, {wanted}): give the scan's "
            "file, or resample it to that grid."
        )
    return voxels


def find_places(token_ids: Sequence[int], placeholder: int, size: int, num_scans: int) -> list[int]:
    """Where each scan's places begin.

    Raises:
        InputError: there are not `size` neighbouring places for each scan.
    """
    places = [index for index, token in enumerate(token_ids) if token == placeholder]
    starts = places[::size]
    is_whole = all(places[number * size + size - 1] == start + size - 1 for number, start in enumerate(starts[:-1]))
    if len(places) != num_scans * size or not is_whole or (starts and places[-1] != starts[-1] + size - 1):
        raise InputError(
            f"the prompt holds {len(places)} places for visual tokens, and {num_scans} scans need {num_scans * size}; "
            "make it with slicesight_vllm.inputs.InputMaker.ask."
        )
    return starts
