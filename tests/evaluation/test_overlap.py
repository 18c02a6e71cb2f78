"""ROUGE-L, BLEU-4, chrF and CIDEr are those of the public scorers, pair by pair, whatever the texts are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from slicesight.evaluation.metrics.overlap import bleu4, bleu_counts, chrf, cider, corpus_bleu4, rougel
from slicesight.evaluation.metrics.text import score_texts

TABLE = json.loads(Path(__file__).with_name("parity_table.json").read_text())["texts"]
TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def pairs(text_pairs):
    stripped = [(said.strip(), true.strip()) for said, true in text_pairs]
    return [(said, true) for said, true in stripped if said and true]


@pytest.mark.parametrize(("name", "score"), [("rougel", rougel), ("bleu4", bleu4), ("chrf", chrf)])
def test_a_metric_is_its_public_scorers(name, score, pairs):
    assert len(pairs) == len(TABLE[name]) >= 200
    assert [score(said, true) for said, true in pairs] == pytest.approx(TABLE[name], abs=TOLERANCE)


def test_cider_is_pycocoevalcaps(pairs):
    assert cider(pairs) == pytest.approx(np.array(TABLE["cider"]), abs=TOLERANCE)


def test_bleu_of_all_texts_together_is_sacrebleus(pairs):
    sums = np.sum([bleu_counts(said, true) for said, true in pairs], axis=0)
    assert corpus_bleu4(list(sums)) == pytest.approx(TABLE["corpus_bleu4"][0], abs=TOLERANCE)


def test_the_table_is_what_the_installed_scorers_give(pairs):
    pytest.importorskip("pycocoevalcap", reason="pycocoevalcap is not installed; its table is compared instead")
    from .make_parity_table import scores_of_texts

    for name, values in scores_of_texts(pairs).items():
        assert values == pytest.approx(TABLE[name], abs=TOLERANCE), name


def test_rouge_and_sacrebleu_as_installed_give_the_table(pairs):
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics import BLEU, CHRF

    rouge, bleu, characters = RougeScorer(["rougeL"]), BLEU(effective_order=True), CHRF()
    for said, true in pairs[::4]:
        assert rougel(said, true) == pytest.approx(rouge.score(true, said)["rougeL"].fmeasure, abs=TOLERANCE)
        assert bleu4(said, true) == pytest.approx(bleu.sentence_score(said, [true]).score / 100, abs=TOLERANCE)
        assert chrf(said, true) == pytest.approx(characters.sentence_score(said, [true]).score / 100, abs=TOLERANCE)


def test_the_longest_common_subsequence_is_the_tables():
    """Restated as the plain table of dynamic programming, on texts longer than a machine word has bits."""
    rng = np.random.default_rng(1)
    for _ in range(20):
        one, other = (rng.integers(0, 5, size=rng.integers(1, 150)).tolist() for _ in range(2))
        table = np.zeros((len(one) + 1, len(other) + 1), dtype=int)
        for i, a in enumerate(one):
            for j, b in enumerate(other):
                table[i + 1, j + 1] = table[i, j] + 1 if a == b else max(table[i, j + 1], table[i + 1, j])
        said, true = (" ".join(map(str, words)) for words in (one, other))
        assert rougel(said, true) == pytest.approx(2 * table[-1, -1] / (len(one) + len(other)))


def test_cider_counts_rarity_among_questions_of_one_kind():
    said, true = ["the liver is large", "spleen", "liver"], ["the liver is large", "spleen", "kidney"]
    kinds = ["report", "open", "open"]
    apart = score_texts(said, true, kinds=kinds).values["cider"]
    together = score_texts(said, true).values["cider"]
    assert np.isnan(apart[0]), "one report: nothing is rare"
    assert together[0] > 0
    assert apart[1:] == pytest.approx(cider([("spleen", "spleen"), ("liver", "kidney")]))
