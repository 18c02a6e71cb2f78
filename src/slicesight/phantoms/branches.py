"""What can only one branch of Med-2E3 see? Synthetic scans with findings that slices, or the coarse volume, hide.

A scan has four levels of eight slices, each with its organ. In every level runs a structure that no set of single
slices can tell: the same discs in another order (COURSES). Masses hold detail that the volume cannot tell once two by
two pixels are averaged: every pattern has mean zero in every such block (DETAILS). A scan has one mass, or one in every
level, so that only the organ named in the question says which is meant. Every value is a fair coin of its own.

Arrays are (32 slices, 64 rows, 64 columns), axial, slices from the feet up; pixels 3 mm, slices 5 mm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from slicesight.data.manifest import LETTERS, Conversation
from slicesight.volumes.geometry import slice_centres
from slicesight.volumes.volume import Volume

SHAPE = (32, 64, 64)
SPACING_MM = (5.0, 3.0, 3.0)
BLOCK = 2
"""Side, in pixels, of the blocks in which every detail has mean zero."""
ORGANS = ("pelvis", "kidney", "liver", "lung")
"""From the feet up; level k holds slices 8 k … 8 k + 7."""
SLICES_PER_LEVEL = SHAPE[0] // len(ORGANS)
COURSES = {
    "twist": ("clockwise", "anticlockwise"),
    "order": ("vessel", "nodules"),
    "growth": ("widening", "narrowing"),
    "number": ("single", "double"),
}
"""What differs from slice to slice only."""
DETAILS = {"texture": ("striped", "checked"), "rim": ("rimmed", "rimless"), "calcification": ("calcified", "plain")}
"""What differs from pixel to pixel only."""
VALUES = {**COURSES, **DETAILS}
GROUPS = {
    "across slices": tuple(COURSES),
    "within a slice": tuple(DETAILS),
    "the level asked for": tuple(f"{name} at a level" for name in DETAILS),
}
"""Kinds of findings -> topics of their questions."""

_BACKGROUND_HU, _STRUCTURE_HU, _MASS_HU, _DETAIL_HU, _NOISE_HU = -40.0, 90.0, 40.0, 55.0, 12.0
_ORGAN_HU = (-120.0, 30.0, 110.0, 200.0)
_MASS_SLICES = 3
_RUNS_OF_TWO = ((0, 4), (0, 5), (0, 6), (1, 5), (1, 6), (2, 6))


@dataclass(frozen=True)
class Piece:
    """One object. kind: of COURSES, or "mass". level: of ORGANS. values: words that are true of it, by property."""

    kind: str
    level: int
    values: dict[str, str]
    slices: tuple[int, ...]


@dataclass(frozen=True)
class BranchTruth:
    """Everything that is asked about; piece number p is marked p + 1 in the labels."""

    pieces: tuple[Piece, ...]

    @property
    def masses(self) -> tuple[Piece, ...]:
        return tuple(piece for piece in self.pieces if piece.kind == "mass")


@dataclass(frozen=True)
class BranchPhantom:
    """hu: float32. labels: uint8, 0 or 1 + the piece's number. truth: what the pieces are."""

    hu: NDArray[np.float32]
    labels: NDArray[np.uint8]
    truth: BranchTruth

    def volume(self) -> Volume:
        """The scan as the readers give one."""
        affine = np.eye(4)
        affine[:3, :3] = np.diag(SPACING_MM)[::-1]
        return Volume(
            voxels=self.hu,
            affine_lps=affine,
            spacing_mm=SPACING_MM,
            slice_positions_mm=slice_centres(affine, SHAPE, axis=0, reversed_=False),
            modality="CT",
            unit="HU",
            is_synthetic=True,
            source={"format": "phantom"},
        )


def make_branch_phantom(seed: int, index: int, *, noise: bool = True) -> BranchPhantom:
    """Draw phantom number `index` of the family `seed`; noise: False leaves it out, for tests of what slices show."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, index, 18]))
    hu, labels = np.full(SHAPE, -160.0, dtype=np.float32), np.zeros(SHAPE, dtype=np.uint8)
    rows, columns = np.indices(SHAPE[1:], dtype=np.float32)
    radius = np.hypot((rows - 31.5) / 28, (columns - 31.5) / 31)
    for level, organ_hu in enumerate(_ORGAN_HU):
        part = hu[level * SLICES_PER_LEVEL : (level + 1) * SLICES_PER_LEVEL]
        part[:, radius < 1] = organ_hu + rng.uniform(-12, 12)
        part[:, radius < 0.88] = _BACKGROUND_HU
    pieces: list[Piece] = []
    for level, kind in enumerate(rng.permutation(list(COURSES))):
        value = COURSES[kind][rng.integers(2)]
        shown = _paint_structure(hu, labels, rng, level=level, value=value, number=len(pieces) + 1)
        pieces.append(Piece(str(kind), level, {str(kind): value}, shown))
    in_every_level = rng.random() < 0.5
    for level in range(len(ORGANS)) if in_every_level else (int(rng.integers(len(ORGANS))),):
        values = {name: words[rng.integers(2)] for name, words in DETAILS.items()}
        shown = _paint_mass(hu, labels, rng, level=level, values=values, number=len(pieces) + 1)
        pieces.append(Piece("mass", level, values, shown))
    if noise:
        hu += rng.standard_normal(SHAPE, dtype=np.float32) * np.float32(_NOISE_HU)
    return BranchPhantom(hu, labels, BranchTruth(tuple(pieces)))


def branch_conversations(truth: BranchTruth, rng: Generator) -> tuple[Conversation, ...]:
    """A closed question on every structure, and on one mass three, or on masses of two levels each property."""
    asked = []
    for piece in truth.pieces:
        if piece.kind in COURSES:
            asked.append(_ask(rng, piece, piece.kind, topic=piece.kind, names_level=True))
    if len(truth.masses) == 1:
        asked += [_ask(rng, truth.masses[0], name, topic=name, names_level=False) for name in DETAILS]
    else:
        for name in DETAILS:
            for place in rng.permutation(len(truth.masses))[:2]:
                piece = truth.masses[place]
                asked.append(_ask(rng, piece, name, topic=f"{name} at a level", names_level=True))
    return tuple(asked)


def zero_block_means(pattern_HW: NDArray[np.float32]) -> NDArray[np.float32]:
    """The pattern without the mean of each BLOCK x BLOCK pixels, which is all that the coarse volume keeps."""
    height, width = pattern_HW.shape
    blocks = pattern_HW.reshape(height // BLOCK, BLOCK, width // BLOCK, BLOCK)
    flat: NDArray[np.float32] = (blocks - blocks.mean(axis=(1, 3), keepdims=True)).reshape(height, width)
    return flat


def disc_places(value: str, rng: Generator) -> list[tuple[int, float, float, float]]:
    """(slice in the level, row, column, radius) of a structure's discs, its middle at 0, 0, in pixels.

    Both values of a property have the same discs, or as many at one place; which slices they lie in tells them apart.
    """
    numbers = np.arange(SLICES_PER_LEVEL)
    angle = rng.uniform(0, 2 * np.pi)
    if value in COURSES["twist"]:
        angles = angle + (1 if value == "clockwise" else -1) * 2 * np.pi * numbers / SLICES_PER_LEVEL
        return [(int(n), 8 * math.sin(a), 8 * math.cos(a), 3.0) for n, a in zip(numbers, angles, strict=True)]
    if value in COURSES["order"]:
        way, start = int(rng.choice((-1, 1))), int(rng.integers(SLICES_PER_LEVEL))
        places = numbers[::way] if value == "vessel" else (start + 3 * way * numbers) % SLICES_PER_LEVEL
        steps = 2.6 * (places - 3.5)
        return [(int(n), s * math.sin(angle), s * math.cos(angle), 3.0) for n, s in zip(numbers, steps, strict=True)]
    reach = rng.uniform(0, 4)
    row, column = reach * math.sin(angle), reach * math.cos(angle)
    if value in COURSES["growth"]:
        radii = 1.6 + 0.7 * (numbers if value == "widening" else numbers[::-1])
        return [(int(n), row, column, float(r)) for n, r in zip(numbers, radii, strict=True)]
    if value == "single":
        first = int(rng.integers(SLICES_PER_LEVEL - 3))
        shown = [first, first + 1, first + 2, first + 3]
    else:
        low, high = _RUNS_OF_TWO[rng.integers(len(_RUNS_OF_TWO))]
        shown = [low, low + 1, high, high + 1]
    return [(n, row, column, 4.0) for n in shown]


def _paint_structure(
    hu: NDArray[np.float32], labels: NDArray[np.uint8], rng: Generator, *, level: int, value: str, number: int
) -> tuple[int, ...]:
    middle_row, middle_column = 31.5 + rng.uniform(-5, 5), 18 + rng.uniform(-1.5, 1.5)
    rows, columns = np.indices(SHAPE[1:], dtype=np.float32)
    shown = []
    for place, row, column, radius in disc_places(value, rng):
        inside = np.hypot(rows - middle_row - row, columns - middle_column - column) < radius
        number_of_slice = level * SLICES_PER_LEVEL + place
        hu[number_of_slice][inside] = _STRUCTURE_HU
        labels[number_of_slice][inside] = number
        shown.append(number_of_slice)
    return tuple(shown)


def _paint_mass(
    hu: NDArray[np.float32],
    labels: NDArray[np.uint8],
    rng: Generator,
    *,
    level: int,
    values: dict[str, str],
    number: int,
) -> tuple[int, ...]:
    middle = np.array((31.5 + rng.uniform(-5, 5), 46 + rng.uniform(-1.5, 1.5)))
    rows, columns = np.indices(SHAPE[1:], dtype=np.float32)
    distance = np.hypot(rows - middle[0], columns - middle[1])
    of_block = _block_means(distance)
    body, edge = of_block < 9, (of_block >= 6.5) & (of_block < 9)
    even_column, even_row = columns % 2 == 0, rows % 2 == 0
    light = even_column if values["texture"] == "striped" else even_column ^ even_row
    pattern = np.where(body & ~edge, np.where(light, _DETAIL_HU, -_DETAIL_HU), 0).astype(np.float32)
    if values["rim"] == "rimmed":
        outer = np.where(distance > of_block, 1.6 * _DETAIL_HU, -1.6 * _DETAIL_HU).astype(np.float32)
        pattern = np.where(edge, zero_block_means(outer), pattern)
    if values["calcification"] == "calcified":
        for turn in rng.uniform(0, 2 * np.pi) + np.array((0, 2.1, 4.2)):
            row, column = (middle + 4 * np.array((math.sin(turn), math.cos(turn)))).astype(int)
            block = np.s_[row // BLOCK * BLOCK :, column // BLOCK * BLOCK :]
            spot = np.full((BLOCK, BLOCK), -0.9 * _DETAIL_HU, dtype=np.float32)
            spot[row % BLOCK, column % BLOCK] = 2.7 * _DETAIL_HU
            pattern[block][:BLOCK, :BLOCK] = spot
    first = level * SLICES_PER_LEVEL + int(rng.integers(SLICES_PER_LEVEL - _MASS_SLICES + 1))
    shown = tuple(range(first, first + _MASS_SLICES))
    for place in shown:
        hu[place][body] = _MASS_HU + pattern[body]
        labels[place][body] = number
    return shown


def _block_means(picture_HW: NDArray[np.float32]) -> NDArray[np.float32]:
    """Every pixel with the mean of its block."""
    return picture_HW - zero_block_means(picture_HW)


_QUESTIONS = {
    "twist": ("Does the tube{} turn {} or {}?", "Which way does the tube{} turn, {} or {}?"),
    "order": ("Is the chain{} {} or {}?", "What is the chain{}, {} or {}?"),
    "growth": ("Is the cone{} {} or {}?", "What is the cone{}, {} or {}?"),
    "number": ("Is the lesion{} {} or {}?", "What is the lesion{}, {} or {}?"),
}
_OF_A_MASS = ("Is the mass{} {} or {}?", "What is the mass{}, {} or {}?")


def _ask(rng: Generator, piece: Piece, name: str, *, topic: str, names_level: bool) -> Conversation:
    words, answer = VALUES[name], piece.values[name]
    named, choices = ([words[i] for i in rng.permutation(2)] for _ in range(2))
    wording = _QUESTIONS.get(name, _OF_A_MASS)[rng.integers(2)]
    place = f" in the {ORGANS[piece.level]}" if names_level else ""
    return Conversation(
        task="closed",
        topic=topic,
        question=wording.format(place, *named),
        choices=tuple(choices),
        answer=answer,
        answer_choice=LETTERS[choices.index(answer)],
        source_slices=piece.slices,
    )
