"""Do two scans look the same, whatever they are stored as?

A perceptual hash (pHash in 3D): the signs of the low frequencies of a thumbnail of 8 x 32 x 32 along the scan's own
slices, grey values replaced by their ranks (so that no rescaling of them changes anything), DCT, the signs of its first
8 x 16 x 16 coefficients but the constant one. It is taken twice, of the whole scan and of the part where something is:
a picture folder and the array cropped from it agree in the second, a scan with little in it is steady only in the
first. Two scans differ by the smaller share of signs that differ: 0 for the same scan, about 1/2 for strangers, less
for two people scanned alike.

It survives another number type, rescaled values, lossy compression, another voxel size and cut-off margins. It does not
survive another grey window, a turned or mirrored copy, or a crop of the body itself.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn

from slicesight.volumes.foreground import Box, foreground_box, sampled, whole_box
from slicesight.volumes.resize import resize
from slicesight.volumes.volume import Volume

THUMBNAIL = (8, 32, 32)
LOW_FREQUENCIES = (8, 16, 16)
NUM_SIGNS = 8 * 16 * 16 - 1
MAX_DIFFERENCE = 0.17
"""Copies of one scan differ by less, scans of two patients by more; docs/decisions.md has the figures."""

_THRESHOLD = 0.12
_MIN_SHARE = 0.02
_ROWS_AT_ONCE = 64
_FIRST_WORDS = 13  # strangers differ in more of these 832 signs than copies may in all


def perceptual_hash(volume: Volume) -> NDArray[np.uint8]:
    """The hash of a scan: (2, 256) packed bits, of the whole and of the part where something is."""
    along_slices = np.moveaxis(volume.voxels, volume.acquisition_axis, 0)
    values = sampled(along_slices)
    low, high = (float(bound) for bound in np.percentile(values, (0.5, 99.5)))
    lowest = float(values.min())
    held = foreground_box(along_slices, lowest + _THRESHOLD * (high - lowest), min_share=_MIN_SHARE)
    return np.stack([_signs(along_slices, box, low, high) for box in (whole_box(along_slices.shape), held)])


def difference(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    """The share of signs in which two hashes differ, where they agree best."""
    return int(np.bitwise_count(first ^ second).sum(axis=1, dtype=np.uint32).min()) / NUM_SIGNS


def similar_pairs(hashes_S2B: NDArray[np.uint8], *, least: float = MAX_DIFFERENCE) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, of S hashes that differ by less than `least`; S² / 2 comparisons of 2 · 256 bytes."""
    pairs: set[tuple[int, int]] = set()
    for hashes_SB in np.moveaxis(hashes_S2B, 1, 0):
        words_WS = np.ascontiguousarray(np.ascontiguousarray(hashes_SB).view(np.uint64).T)
        for start in range(0, words_WS.shape[1], _ROWS_AT_ONCE):
            pairs |= _pairs_of_rows(words_WS, start, most=least * NUM_SIGNS)
    return sorted(pairs)


def _pairs_of_rows(words_WS: NDArray[np.uint64], start: int, *, most: float) -> set[tuple[int, int]]:
    block_WR, rest_WS = words_WS[:, start : start + _ROWS_AT_ONCE], words_WS[:, start:]
    counts_RS = np.zeros((block_WR.shape[1], rest_WS.shape[1]), np.uint16)
    for word in range(_FIRST_WORDS):
        counts_RS += np.bitwise_count(block_WR[word, :, None] ^ rest_WS[word, None, :])
    rows, columns = np.nonzero(counts_RS < most)
    is_later = rows < columns
    rows, columns = rows[is_later], columns[is_later]
    differing = np.bitwise_count(block_WR[:, rows] ^ rest_WS[:, columns]).sum(axis=0, dtype=np.uint32)
    found = np.flatnonzero(differing < most)
    return {(start + int(rows[i]), start + int(columns[i])) for i in found}


def _signs(along_slices: NDArray[np.float32], box: Box, low: float, high: float) -> NDArray[np.uint8]:
    scale = np.float32(1.0 / (high - low) if high > low else 0.0)

    def to_grey(block: NDArray[np.float32]) -> NDArray[np.float32]:
        grey: NDArray[np.float32] = np.clip((block - np.float32(low)) * scale, 0.0, 1.0, dtype=np.float32)
        return grey

    cropped = along_slices[tuple(slice(start, stop) for start, stop in box)]
    frequencies = dctn(_ranks(resize(cropped, THUMBNAIL, to_grey=to_grey).round(3)), norm="ortho")
    low_frequencies = frequencies[: LOW_FREQUENCIES[0], : LOW_FREQUENCIES[1], : LOW_FREQUENCIES[2]].reshape(-1)[1:]
    return np.packbits(low_frequencies > 0)


def _ranks(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Each value by its place in the order of all, equal values sharing one; mean about 0."""
    _, inverse, counts = np.unique(values.reshape(-1), return_inverse=True, return_counts=True)
    places = np.cumsum(counts) - (counts + 1) / 2
    return (places[inverse] / values.size - 0.5).reshape(values.shape)
