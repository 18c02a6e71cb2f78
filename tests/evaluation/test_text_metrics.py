"""The metrics are those of the public libraries, pair by pair, whatever the texts are."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from slicesight.evaluation.metrics.meteor import Meteor
from slicesight.evaluation.metrics.text import bleu1, rouge1, score_texts, split_13a

TOLERANCE = 1e-6


def not_empty(pairs):
    return [(said.strip(), true.strip()) for said, true in pairs if said.strip() and true.strip()]


def test_bleu1_is_sacrebleus_of_order_one(text_pairs):
    from sacrebleu.metrics import BLEU

    library = BLEU(max_ngram_order=1, smooth_method="none", effective_order=True)
    pairs = not_empty(text_pairs)
    assert len(pairs) >= 200
    for said, true in pairs:
        assert bleu1(said, true) == pytest.approx(library.sentence_score(said, [true]).score / 100, abs=TOLERANCE), said


def test_bleu1_is_the_papers_formula_restated():
    said, true = "the liver is large", "the liver is large and red ."
    assert bleu1(said, true) == pytest.approx(math.exp(1 - 7 / 4) * 1.0)
    assert bleu1("the the the", "the liver") == pytest.approx(1 / 3), "a word counts as often as it is true"
    assert split_13a("12. It is 3.5 mm, 2-3 (x).") == (
        "12", ".", "It", "is", "3.5", "mm", ",", "2", "-", "3", "(", "x", ")", ".",
    )  # fmt: skip


def test_rouge1_is_rouge_scores(text_pairs):
    from rouge_score.rouge_scorer import RougeScorer

    library = RougeScorer(["rouge1"])
    for said, true in not_empty(text_pairs):
        assert rouge1(said, true) == pytest.approx(library.score(true, said)["rouge1"].fmeasure, abs=TOLERANCE), said


def test_meteor_is_nltks_with_its_own_tokenizer_stemmer_and_wordnet(text_pairs, nltk_data):
    from nltk import word_tokenize
    from nltk.translate.meteor_score import single_meteor_score

    ours = Meteor.load()
    pairs = not_empty(text_pairs)
    for said, true in pairs:
        theirs = single_meteor_score(word_tokenize(true), word_tokenize(said))
        assert ours.score(said, true) == pytest.approx(theirs, abs=TOLERANCE), (said, true)
    assert ours.score("a large tumor", "a big tumour") > ours.score("a large x", "a big y"), "synonyms count"


def test_meteor_is_nltks_with_the_real_wordnet(text_pairs, tmp_path):
    if not any((Path(place) / "corpora" / "wordnet").is_dir() for place in os.environ.get("NLTK_DATA", "x").split(":")):
        pytest.skip("no real WordNet here: set NLTK_DATA to a folder with corpora/wordnet and tokenizers/punkt_tab")
    (tmp_path / "pairs.json").write_text(json.dumps(not_empty(text_pairs)))
    code = (
        "import json, sys; from nltk import word_tokenize as w\n"
        "from nltk.translate.meteor_score import single_meteor_score\n"
        "from slicesight.evaluation.metrics.meteor import Meteor\n"
        "m = Meteor.load(); pairs = json.load(open(sys.argv[1]))\n"
        "print(max(abs(m.score(a, b) - single_meteor_score(w(b), w(a))) for a, b in pairs), m.about['wordnet'])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "pairs.json")]
    worst, version = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert float(worst) < TOLERANCE
    assert version == "3.0"


def test_an_empty_output_is_zero_and_the_mean_counts_it(nltk_data):
    scores = score_texts(["", "   ", "the liver"], ["the liver", "the liver", "the liver"])
    for name in ("bleu1", "rouge1", "meteor"):
        assert scores.values[name][:2].tolist() == [0, 0]
        assert scores.values[name][2] > 0.9
    assert scores.values["bleu1"].mean() == pytest.approx(1 / 3)


def test_texts_of_white_space_other_scripts_and_line_separators_are_scored(text_pairs, nltk_data):
    scores = score_texts(*zip(*text_pairs, strict=True))
    for name, values in scores.values.items():
        assert len(values) == len(text_pairs)
        assert np.isfinite(values).all(), name
        assert values.min() >= 0
        assert values.max() <= (10 if name == "cider" else 1) + 1e-9


def test_metrics_whose_parts_are_missing_say_how_to_get_them_and_the_others_stay(tmp_path):
    code = (
        "import json; from slicesight.evaluation.metrics.text import score_texts\n"
        "s = score_texts(['a'], ['a']); print(json.dumps([sorted(s.values), s.missing]))"
    )
    environment = {**os.environ, "NLTK_DATA": "", "HOME": str(tmp_path)}
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    ).stdout
    values, missing = json.loads(out)
    assert values == ["bleu1", "bleu4", "chrf", "cider", "exact", "rouge1", "rougel"]
    assert "python -m nltk.downloader wordnet punkt_tab" in missing["meteor"]
    assert "--bertscore" in missing["bertscore_f1"]
