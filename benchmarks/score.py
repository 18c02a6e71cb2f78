"""How much faster than the papers' scorer, and are the numbers the same? One run, both ways, ratios.

The papers' loop scores pair by pair through the package `evaluate` ("bleu", "rouge", "meteor", "bertscore"): each call
writes a table, reads it, and runs BLEU of order 1 on 13a tokens, ROUGE-1 with a bootstrap of 1000 draws, nltk's METEOR,
or one BERTScore pass. The hub that holds those four scripts is not asked: they are restated on `evaluate.Metric`.
Without `evaluate` the libraries are called bare, which makes the ratio smaller; the last line says which it was. Three
kinds of pairs: reports, short answers, and both in M3D-Bench's proportion (one report to five open questions).
BERTScore is bound by its model's multiplications: `limit_s` is what they take at this machine's float32 rate.
Everything is warm: a first round over other pairs loads models and WordNet. The timed pairs are new to both.

    NLTK_DATA=… python benchmarks/score.py --bertscore FOLDER [--pairs 200]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
Pair = tuple[str, str]
Score = Callable[[str, str], float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--bertscore", default=None, help="model folder; left out, BERTScore is not timed")
    parser.add_argument("--layer", type=int, default=None)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(arguments.threads)
    found: dict[str, Any] = {"through_evaluate": find_spec("evaluate") is not None, "threads": arguments.threads}
    for kind, make in (("reports", report_pairs), ("vqa", vqa_pairs), ("m3d_bench", bench_pairs)):
        warm, timed = make(arguments.pairs, seed=0), make(arguments.pairs, seed=1)
        found[kind] = compare(warm, timed, None, None)
        print(kind, "without BERTScore", found[kind])
        if arguments.bertscore:
            found[f"{kind}_with_bertscore"] = {
                **compare(warm, timed, arguments.bertscore, arguments.layer),
                "limit_s": round(multiplication_seconds(timed, arguments.bertscore, arguments.layer), 3),
            }
            print(kind, "with BERTScore", found[f"{kind}_with_bertscore"])
    print(json.dumps(found))


def compare(warm: Sequence[Pair], timed: Sequence[Pair], bertscore: str | None, layer: int | None) -> dict[str, Any]:
    """Processor seconds of both ways and the largest difference of any metric of any pair."""
    metrics = papers_metrics(bertscore, layer)
    ours = our_way(bertscore, layer)
    papers_loop(metrics, warm[:10])
    ours(warm)
    library_seconds, library = clock(lambda pairs: papers_loop(metrics, pairs), timed)
    our_seconds, mine = clock(ours, timed)
    worst = {key: max(abs(a[key] - b[key]) for a, b in zip(library, mine, strict=True)) for key in library[0]}
    return {
        "pairs": len(timed),
        "library_s": round(library_seconds, 3),
        "ours_s": round(our_seconds, 4),
        "ratio": round(library_seconds / our_seconds, 1),
        "largest_difference": worst,
    }


def clock(work: Callable[[Sequence[Pair]], list[dict[str, float]]], pairs: Sequence[Pair]) -> tuple[float, list]:
    """Processor time, so that a busy machine does not decide."""
    started = time.process_time()
    found = work(pairs)
    return time.process_time() - started, found


def papers_loop(metrics: dict[str, Score], pairs: Sequence[Pair]) -> list[dict[str, float]]:
    return [{name: score(said, true) for name, score in metrics.items()} for said, true in pairs]


def papers_metrics(bertscore: str | None, layer: int | None) -> dict[str, Score]:
    """name -> the library's score of one pair, through `evaluate` where it is installed."""
    bare = bare_metrics(bertscore, layer)
    return {name: through_evaluate(name, score) for name, score in bare.items()} if find_spec("evaluate") else bare


def bare_metrics(bertscore: str | None, layer: int | None) -> dict[str, Score]:
    """What the four scripts run."""
    import numpy as np
    from nltk import word_tokenize
    from nltk.translate.meteor_score import single_meteor_score
    from rouge_score import rouge_scorer, scoring
    from sacrebleu.metrics import BLEU

    def bleu(said: str, true: str) -> float:
        library = BLEU(max_ngram_order=1, smooth_method="none", effective_order=True)
        return library.corpus_score([said], [[true]]).score / 100

    def rouge(said: str, true: str) -> float:
        aggregator = scoring.BootstrapAggregator()
        aggregator.add_scores(rouge_scorer.RougeScorer(["rouge1"]).score(true, said))
        return aggregator.aggregate()["rouge1"].mid.fmeasure

    def meteor(said: str, true: str) -> float:
        return float(np.mean([single_meteor_score(word_tokenize(true), word_tokenize(said))]))

    found: dict[str, Score] = {"bleu1": bleu, "rouge1": rouge, "meteor": meteor}
    if bertscore is not None:
        import bert_score
        from transformers import AutoConfig

        layers = layer or AutoConfig.from_pretrained(bertscore).num_hidden_layers
        scorer = bert_score.BERTScorer(model_type=bertscore, num_layers=layers)
        found["bertscore_f1"] = lambda said, true: scorer.score([said], [true])[2].item()
    return found


def through_evaluate(name: str, score: Score) -> Score:
    """The same as a metric of the package `evaluate`, called as the papers' scripts call it."""
    import datasets
    import evaluate

    class Restated(evaluate.Metric):
        def _info(self) -> evaluate.MetricInfo:
            text = datasets.Value("string")
            features = datasets.Features({"predictions": text, "references": text})
            return evaluate.MetricInfo(description=name, citation="", inputs_description="", features=features)

        def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
            return {name: score(predictions[0], references[0])}

    metric = Restated()
    return lambda said, true: metric.compute(predictions=[said], references=[true])[name]


def our_way(bertscore: str | None, layer: int | None) -> Callable[[Sequence[Pair]], list[dict[str, float]]]:
    from slicesight.evaluation.metrics.text import score_texts

    names = ["bleu1", "rouge1", "meteor", *(["bertscore_f1"] if bertscore else [])]

    def work(pairs: Sequence[Pair]) -> list[dict[str, float]]:
        scores = score_texts(*zip(*pairs, strict=True), bertscore=bertscore, layer=layer)
        assert not set(names) - set(scores.values), scores.missing
        return [{name: float(scores.values[name][place]) for name in names} for place in range(len(pairs))]

    return work


def report_pairs(count: int, *, seed: int) -> list[Pair]:
    """Long pairs of about a hundred words, no text twice; half of the sentences are the same."""
    rng = random.Random(seed)
    organs = ["liver", "spleen", "left kidney", "right kidney", "pancreas", "left lung", "right lung", "aorta"]
    kinds = ["cyst", "nodule", "calcification", "mass", "abscess", "effusion", "enlarged lymph node"]
    shapes = [
        "There is a {size} mm {kind} in the {organ}.",
        "A {kind} of {size} mm is seen in the {organ}.",
        "The {organ} shows a {kind}, {size} mm in diameter.",
        "The {organ} is normal in size and density.",
        "No {kind} is found in the {organ}; the margin is smooth.",
        "Compared with before, the {kind} has grown to {size} mm.",
    ]

    def sentence() -> str:
        words = {"size": rng.randint(3, 90) / 2, "kind": rng.choice(kinds), "organ": rng.choice(organs)}
        return rng.choice(shapes).format(**words)

    pairs = []
    for _ in range(count):
        true = [sentence() for _ in range(11)]
        said = [line if rng.random() < 0.5 else sentence() for line in true]
        pairs.append((" ".join(said), " ".join(true)))
    return pairs


def bench_pairs(count: int, *, seed: int) -> list[Pair]:
    """One report to five open questions."""
    return report_pairs(max(1, count // 6), seed=seed) + vqa_pairs(count - count // 6, seed=seed)


def multiplication_seconds(pairs: Sequence[Pair], bertscore: str, layer: int | None) -> float:
    """The model's matrix products over every different text, at the rate measured for one of them here."""
    import torch
    from transformers import AutoConfig, AutoTokenizer

    config, tokenizer = AutoConfig.from_pretrained(bertscore), AutoTokenizer.from_pretrained(bertscore)
    texts = sorted({text for pair in pairs for text in pair})
    num_tokens = sum(len(ids) for ids in tokenizer(texts)["input_ids"])
    width, inner = config.hidden_size, config.intermediate_size
    work = num_tokens * (layer or config.num_hidden_layers) * 2 * (4 * width**2 + 2 * width * inner)
    left, right = torch.rand(2048, width), torch.rand(width, inner)
    left @ right
    started = time.process_time()
    for _ in range(10):
        left @ right
    rate = 10 * 2 * 2048 * width * inner / (time.process_time() - started)
    return work / rate


def vqa_pairs(count: int, *, seed: int) -> list[Pair]:
    """Short pairs that repeat, as answers to five topics do."""
    rng = random.Random(seed)
    places = ["upper lobe of the left lung", "left kidney", "right lobe of the liver", "head of the pancreas", "spleen"]
    kinds = ["cyst", "simple cyst", "calcified nodule", "abscess", "metastasis", "no abnormality"]
    phases = ["arterial phase", "venous phase", "non-contrast", "delayed phase"]
    answers = [*places, *kinds, *phases, "axial", "coronal", "sagittal"]
    return [(rng.choice(answers), rng.choice(answers)) for _ in range(count)]


if __name__ == "__main__":
    main()
