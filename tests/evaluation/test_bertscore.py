"""BERTScore is that of the package bert-score, with empty texts as zeros."""

from __future__ import annotations

import numpy as np
import pytest

from slicesight.evaluation.metrics import MissingPartError
from slicesight.evaluation.metrics.bertscore import BertScorer


@pytest.mark.parametrize("layer", [2])
def test_f1_is_bert_scores_on_every_pair(tiny_bert, text_pairs, layer):
    import bert_score

    pairs = [pair for pair in text_pairs if pair[0].strip() and pair[1].strip()]
    assert len(pairs) >= 200
    library = bert_score.BERTScorer(model_type=str(tiny_bert), num_layers=layer, device="cpu")
    theirs = [library.score([said], [true])[2].item() for said, true in pairs]  # one by one, as the papers' scorer
    ours = BertScorer.load(str(tiny_bert), layer=layer).score(pairs)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_empty_texts_are_zero_and_equal_ones_are_one(tiny_bert):
    scorer = BertScorer.load(str(tiny_bert))
    scores = scorer.score([("", "liver"), ("liver", ""), ("  ", " "), ("the liver", "the liver")])
    assert scores[:3].tolist() == [0, 0, 0]
    assert scores[3] == pytest.approx(1, abs=1e-6)


def test_a_pair_does_not_depend_on_what_is_scored_with_it(tiny_bert, text_pairs):
    scorer = BertScorer.load(str(tiny_bert))
    together = scorer.score(text_pairs)
    alone = [scorer.score([pair])[0] for pair in text_pairs[:40]]
    np.testing.assert_allclose(together[:40], alone, atol=1e-6)


def test_the_sheet_names_model_layer_and_versions_and_what_it_may_not_be_compared_with(tiny_bert):
    about = BertScorer.load(str(tiny_bert)).about
    assert about["model"] == str(tiny_bert)
    assert about["layer"] == 3, "a model that bert-score does not know gives its last layer"
    assert about["transformers"]
    assert not about["comparable_with_published"]
    assert "not comparable with published BERTScore" in about["note"]


def test_a_text_longer_than_the_model_reads_is_cut(tiny_bert):
    scorer = BertScorer.load(str(tiny_bert))
    assert 0 < scorer.score([("liver " * 200, "lung " * 200)])[0] <= 1


@pytest.mark.parametrize(
    ("name", "layer", "found"), [("nobody/nothing", None, "cannot be loaded"), (None, 9, "3 layers, not 9")]
)
def test_a_model_that_cannot_be_had_is_a_missing_part(tiny_bert, name, layer, found):
    with pytest.raises(MissingPartError, match=found):
        BertScorer.load(name or str(tiny_bert), layer=layer)
