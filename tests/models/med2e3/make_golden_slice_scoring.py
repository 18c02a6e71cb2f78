"""Recompute golden_slice_scoring.npz: Algorithm 1 and eq. 4-8 in plain numpy float64, sharing no code with the package.

usage: python tests/models/med2e3/make_golden_slice_scoring.py
"""

from pathlib import Path

import numpy as np


def compute(tokens_3d, tokens_2d, question_tokens):
    """tokens_3d (K, P, D), tokens_2d (N, L, D), question_tokens (Q, D) -> slice vectors, dots, scores, z_2D, z_I."""
    num_bins, num_slices = len(tokens_3d), len(tokens_2d)
    vectors = np.stack(
        [
            np.concatenate([tokens_3d[j * num_bins // num_slices], tokens_2d[j]], axis=0).mean(axis=0)
            for j in range(num_slices)
        ]
    )
    text = question_tokens.mean(axis=0)
    dots = np.array([text @ vector for vector in vectors])
    exponentials = np.exp(dots - dots.max())
    scores = exponentials / exponentials.sum()
    weighted = sum(score * slice_tokens for score, slice_tokens in zip(scores, tokens_2d, strict=True))
    joined = np.concatenate([tokens_3d.reshape(-1, tokens_3d.shape[-1]), weighted], axis=0)
    return {"vectors": vectors, "dots": dots, "scores": scores, "weighted": weighted, "joined": joined}


def main():
    rng = np.random.default_rng(11)
    arrays = {}
    for name, (bins, per_bin, slices, per_slice, asked, width) in {
        "three_bins": (3, 5, 12, 4, 6, 8),
        "bin_per_slice": (4, 2, 4, 3, 1, 6),
        "one_bin": (1, 3, 7, 2, 3, 5),
    }.items():
        inputs = {
            "tokens_3d": rng.normal(size=(bins, per_bin, width)),
            "tokens_2d": rng.normal(size=(slices, per_slice, width)),
            "question_tokens": rng.normal(size=(asked, width)),
        }
        for key, value in {**inputs, **compute(**inputs)}.items():
            arrays[f"{name}.{key}"] = value
    np.savez_compressed(Path(__file__).with_name("golden_slice_scoring.npz"), **arrays)


if __name__ == "__main__":
    main()
