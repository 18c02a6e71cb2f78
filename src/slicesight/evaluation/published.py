"""What did the paper print? Tables 3, 4 and 5 of Med-2E3, for comparison beside our own.

One seed, 100 K samples. Numbers in percent. Table 5's marks for text, 3D and 2D are lost in the text at hand: its rows
are read as 3D, 2D and both without text, then with text, the last being the full model; an assumption.
"""

from __future__ import annotations

METRICS = (
    ("report", "bleu1", "B@1"),
    ("report", "rouge1", "R@1"),
    ("report", "meteor", "M"),
    ("report", "bertscore_f1", "BERT"),
    ("open", "bleu1", "B@1"),
    ("open", "rouge1", "R@1"),
    ("open", "meteor", "M"),
    ("open", "bertscore_f1", "BERT"),
    ("closed", "accuracy", "acc."),
)
"""The columns of every ablation table: reports, then VQA, all micro."""

_FULL = (49.67, 52.12, 48.92, 90.25, 39.83, 43.13, 28.27, 89.95, 72.05)
TABLES: dict[int, dict[str, tuple[float, ...]]] = {
    3: {
        "3D": (44.97, 47.55, 44.19, 89.31, 37.50, 40.66, 26.42, 89.56, 70.13),
        "2D": (36.96, 39.63, 35.78, 87.65, 39.22, 42.48, 27.83, 89.84, 71.71),
        "3D + 2D": _FULL,
    },
    4: {
        "random": (47.24, 49.88, 46.47, 89.80, 39.21, 42.46, 27.67, 89.89, 71.26),
        "max": (45.91, 48.51, 45.20, 89.52, 39.09, 42.32, 27.53, 89.87, 71.51),
        "mean": (48.50, 51.10, 47.83, 90.04, 39.26, 42.51, 27.76, 89.90, 71.47),
        "TG-IS": _FULL,
    },
    5: {
        "3D": (49.65, 52.09, 48.93, 89.67, 39.51, 42.75, 27.82, 89.94, 71.76),
        "2D": (42.81, 45.43, 41.85, 88.86, 38.83, 42.16, 27.39, 89.82, 71.34),
        "3D + 2D": (45.92, 48.44, 45.18, 89.49, 39.58, 42.89, 27.90, 89.93, 71.71),
        "text + 3D": (46.92, 49.41, 46.06, 89.70, 39.83, 43.12, 28.19, 90.00, 71.25),
        "text + 2D": (47.15, 49.87, 46.55, 89.84, 39.22, 42.52, 27.58, 89.85, 71.68),
        "text + 3D + 2D": _FULL,
    },
}
TITLES = {
    3: "Table 3: which branch the language model sees",
    4: "Table 4: how the slices become one set of tokens",
    5: "Table 5: what the scores look at",
}
