"""Which values do the public scorers give? Writes parity_table.json; needs pycocoevalcap and scikit-learn.

python tests/evaluation/make_parity_table.py
"""

from __future__ import annotations

import importlib.util
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
SCORERS = ("rouge-score", "sacrebleu", "pycocoevalcap", "scikit-learn")


def text_pairs() -> list[tuple[str, str]]:
    """The pairs of conftest.py that are not empty."""
    spec = importlib.util.spec_from_file_location("pairs", HERE / "conftest.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    stripped = [(said.strip(), true.strip()) for said, true in module.make_text_pairs()]
    return [(said, true) for said, true in stripped if said and true]


def label_tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(truth, said, probability), each (V, F): 220 scans, 6 findings of other prevalence, ties among probabilities."""
    rng = np.random.default_rng(11)
    truth_VF = rng.random((220, 6)) < np.array([0.5, 0.3, 0.2, 0.1, 0.05, 0.8])
    odds_VF = truth_VF * 1.1 + rng.normal(size=truth_VF.shape)
    probability_VF = np.round(1 / (1 + np.exp(-odds_VF)), 2)
    return truth_VF, probability_VF >= 0.5, probability_VF


def tokens(text: str) -> str:
    import re

    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


def scores_of_texts(pairs: list[tuple[str, str]]) -> dict[str, list[float]]:
    from pycocoevalcap.cider.cider import Cider
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics import BLEU, CHRF

    rouge, bleu, characters = RougeScorer(["rougeL"]), BLEU(effective_order=True), CHRF()
    true = {number: [tokens(pair[1])] for number, pair in enumerate(pairs)}
    said = {number: [tokens(pair[0])] for number, pair in enumerate(pairs)}
    return {
        "rougel": [rouge.score(true, said)["rougeL"].fmeasure for said, true in pairs],
        "bleu4": [bleu.sentence_score(said, [true]).score / 100 for said, true in pairs],
        "chrf": [characters.sentence_score(said, [true]).score / 100 for said, true in pairs],
        "cider": [float(value) for value in Cider().compute_score(true, said)[1]],
        "corpus_bleu4": [BLEU().corpus_score([pair[0] for pair in pairs], [[pair[1] for pair in pairs]]).score / 100],
    }


def scores_of_labels() -> dict[str, Any]:
    from sklearn.metrics import average_precision_score, precision_recall_fscore_support, roc_auc_score

    truth_VF, said_VF, probability_VF = label_tables()
    found: dict[str, Any] = {}
    for average in (None, "macro", "micro"):
        numbers = precision_recall_fscore_support(truth_VF, said_VF, average=average, zero_division=0)[:3]
        for name, value in zip(("precision", "recall", "f1"), numbers, strict=True):
            found[f"{average or 'each'}_{name}"] = np.asarray(value).tolist()
    for name, function in (("auroc", roc_auc_score), ("average_precision", average_precision_score)):
        found[name] = [float(function(truth_VF[:, place], probability_VF[:, place])) for place in range(6)]
        found[f"micro_{name}"] = float(function(truth_VF.ravel(), probability_VF.ravel()))
    return found


def main() -> None:
    table = {
        "versions": {name: version(name) for name in SCORERS},
        "texts": scores_of_texts(text_pairs()),
        "labels": scores_of_labels(),
    }
    (HERE / "parity_table.json").write_text(json.dumps(table) + "\n")
    print({name: len(values) for name, values in table["texts"].items()})


if __name__ == "__main__":
    main()
