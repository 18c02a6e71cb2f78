"""Which changes to a volume leave every sentence about it true?

Brightness, contrast, noise and small in-plane rotation, shift and zoom keep plane, phase, order of slices and sides.
A mirror image does not: it comes only with left and right swapped in the words, and not at all where the columns are
not known to run from one side of the patient to the other, or where swapping may not be enough: where a side is a name
(left ventricle), an abbreviation (RUL), a word of another language or no side at all (left in place), nobody is asked
to guess. N slices, H rows, W columns, values in [0, 1].
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch.nn import functional

from slicesight.data.manifest import Conversation
from slicesight.errors import InputError

LARGEST = {"intensity": 0.5, "noise": 0.2, "rotate_deg": 15.0, "shift": 0.1, "zoom": 0.2, "flip_sides": 1.0}
PLANES_WITH_SIDED_COLUMNS = ("axial", "coronal")
"""Columns grow to the patient's left (volumes/grid.py). Sagittal stacks have sides along the slices: reversing their
order would make "the first third of the stack" false, so they are never mirrored."""

SIDE = re.compile(r"\b(left|right)(?=(?:wards?|most|hand|sided)?\b)", re.IGNORECASE)
OTHER = {"left": "right", "right": "left"}
DOUBTFUL = re.compile(
    r"""
      \b(?:left|right)[\s-]+(?:atri|ventric|heart|bundle|coronary|main\b|anterior\sdescending|auric|circumflex|dominan)
    | \b(?:left|right)[\s-]*handed
    | \bmiddle\s+lobe | \blingula | \binvers | \btransposition | clockwise
    | \b(?:dextr|laev|levo|sinist)\w*
    | \bright\s+(?:now|away|angle|answer|choice|option|after|before|at)\b | \b(?:all|that|this|it)\s+(?:is\s+)?right\b
    | \b(?:been|be|being|was|were|is|are|has|have|had)\s+left\s+(?:in|out|over|behind|alone|open|to|as|for|un\w*)\b
    | \bleft(?:\s+|-)?(?:over|behind|in\s+place|in\s+situ)\b
    | \b(?:links|rechts|linke\w*|rechte\w*|gauche\w*|droit\w*|izquierd\w*|derech\w*|destr[aoie]|esquerd\w*|direit\w*)\b
    | (?-i:\b(?:R|L|Rt|Lt|RT|LT|[RL][UML]L|[RL][UL]Q|[RL][VA]|RCA|LCA|LAD|LCX|LMCA|[RL]MB|RVOT|LVOT)\b)
    | \b[rl]t\.
    """,
    re.IGNORECASE | re.VERBOSE,
)
LATIN = re.compile(r"[^\W\d_]")


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How much a volume may change each time it comes up; each is drawn evenly between none and this much.

    intensity: contrast by 1 ± intensity around mid-grey, brightness by ± intensity / 4. noise: standard deviation of
    Gaussian noise, up to this. rotate_deg: in-plane, ± this. shift: share of height and width, ± this. zoom: 1 ± this.
    flip_sides: probability of a mirror image, with left and right swapped in question, choices and answer.
    """

    intensity: float = 0.0
    noise: float = 0.0
    rotate_deg: float = 0.0
    shift: float = 0.0
    zoom: float = 0.0
    flip_sides: float = 0.0

    def __post_init__(self) -> None:
        for option in fields(self):
            value, largest = getattr(self, option.name), LARGEST[option.name]
            if not 0 <= value <= largest:
                raise InputError(
                    f"augment: {option.name} is {value}; expected 0 to {largest:g}, so that texts stay true"
                )

    @property
    def changes_pixels(self) -> bool:
        """Whether any is on."""
        return any(getattr(self, option.name) for option in fields(self))


@dataclass(frozen=True, kw_only=True)
class Change:
    """One draw: contrast and brightness, noise, and how the picture moves; shifts are shares of height and width."""

    contrast: float = 1.0
    brightness: float = 0.0
    noise: float = 0.0
    angle_deg: float = 0.0
    shift_rows: float = 0.0
    shift_columns: float = 0.0
    zoom: float = 1.0
    is_mirrored: bool = False

    @property
    def moves(self) -> bool:
        """Whether any pixel changes its place, mirroring aside."""
        return (self.angle_deg, self.shift_rows, self.shift_columns, self.zoom) != (0.0, 0.0, 0.0, 1.0)


def draw_change(augmentation: Augmentation, rng: Generator) -> Change:
    """Draw one change; what is switched off stays exactly as it was."""

    def between(size: float) -> float:
        return float(rng.uniform(-size, size)) if size else 0.0

    return Change(
        contrast=1.0 + between(augmentation.intensity),
        brightness=between(augmentation.intensity / 4),
        noise=float(rng.uniform(0, augmentation.noise)) if augmentation.noise else 0.0,
        angle_deg=between(augmentation.rotate_deg),
        shift_rows=between(augmentation.shift),
        shift_columns=between(augmentation.shift),
        zoom=1.0 + between(augmentation.zoom),
        is_mirrored=bool(augmentation.flip_sides and rng.random() < augmentation.flip_sides),
    )


def augment(
    voxels_NHW: NDArray[np.float32],
    conversations: Sequence[Conversation],
    augmentation: Augmentation,
    rng: Generator,
    *,
    plane: str | None,
) -> tuple[NDArray[np.float32], list[Conversation]]:
    """Change one volume and, where it is mirrored, what is said about it.

    plane: how its slices are stacked; None where nobody knows which way they lie, which forbids mirroring.
    """
    change = draw_change(augmentation, rng)
    if change.is_mirrored:
        swapped = [swap_conversation(conversation) for conversation in conversations]
        if plane in PLANES_WITH_SIDED_COLUMNS and None not in swapped:
            voxels_NHW = voxels_NHW[:, :, ::-1]
            conversations = [conversation for conversation in swapped if conversation is not None]
    voxels_NHW = move(voxels_NHW, change)
    if (change.contrast, change.brightness, change.noise) != (1.0, 0.0, 0.0):
        voxels_NHW = (voxels_NHW - 0.5) * np.float32(change.contrast) + np.float32(0.5 + change.brightness)
        if change.noise:
            voxels_NHW = voxels_NHW + np.float32(change.noise) * rng.standard_normal(voxels_NHW.shape, np.float32)
        voxels_NHW = np.clip(voxels_NHW, 0, 1)
    return np.ascontiguousarray(voxels_NHW, dtype=np.float32), list(conversations)


def move(pictures_NHW: NDArray[np.float32], change: Change, *, nearest: bool = False) -> NDArray[np.float32]:
    """Rotate, shift and zoom every slice alike; what comes from outside is 0. nearest: for label maps."""
    if not change.moves:
        return pictures_NHW
    height, width = pictures_NHW.shape[1:]
    angle = math.radians(change.angle_deg)
    cosine, sine = math.cos(angle) / change.zoom, math.sin(angle) / change.zoom
    # output position -> input position, in shares of half the width and height
    theta = torch.tensor(
        [
            [cosine, sine * height / width, -2 * change.shift_columns],
            [-sine * width / height, cosine, -2 * change.shift_rows],
        ]
    )
    grid = functional.affine_grid(theta[None], [1, 1, height, width], align_corners=False)
    pictures = torch.from_numpy(np.ascontiguousarray(pictures_NHW))[None]
    moved = functional.grid_sample(
        pictures, grid.to(pictures.dtype), mode="nearest" if nearest else "bilinear", align_corners=False
    )
    return moved[0].numpy()


def swap_sides(text: str) -> str | None:
    """The text with every left a right and every right a left, in its own case; None where that may not be enough."""
    if DOUBTFUL.search(text) or any(ord(letter) > 0x24F for letter in LATIN.findall(text)):
        return None
    return SIDE.sub(lambda found: _other_side(found[0]), text)


def _other_side(word: str) -> str:
    other = OTHER[word.lower()]
    if word.isupper():
        return other.upper()
    return other.capitalize() if word[0].isupper() else other


def swap_conversation(conversation: Conversation) -> Conversation | None:
    """Question, choices and answer for the mirror image; None where one of them cannot be swapped."""
    question, answer, *choices = map(
        swap_sides, (conversation.question, conversation.answer, *(conversation.choices or ()))
    )
    if None in (question, answer, *choices):
        return None
    listed = None if conversation.choices is None else tuple(choices)
    return conversation.model_copy(update={"question": question, "answer": answer, "choices": listed})
