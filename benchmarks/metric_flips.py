"""What does each metric do when a report's negation, side or finding is wrong, and when only its words differ?

200 reports are put together from written sentences by a seed: each of CT-RATE's 18 findings present, denied or not
named, some with a side. Each is then changed in one way, and the changed text is scored against the report:

    paraphrase   the same statements in other words
    negation     one statement denied that was made, or made that was denied
    side         left for right in one statement
    dropped      one statement of a finding left out

A metric to trust falls for the last three and not for the first.

    python benchmarks/metric_flips.py [--reports 200] [--bertscore MODEL] [--radeval radgraph] [--radeval-python PYTHON]
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from slicesight.data.sources.ct_rate import FINDINGS
from slicesight.evaluation.metrics.clinical import count, crg
from slicesight.evaluation.metrics.findings import label_texts
from slicesight.evaluation.metrics.radeval import radeval_scores
from slicesight.evaluation.metrics.text import score_texts
from slicesight.evaluation.statistics import mean_interval

RESULTS = Path(__file__).parent / "results"
CHANGES = ("paraphrase", "negation", "side", "dropped")
SIDED = {"Atelectasis", "Lung nodule", "Lung opacity", "Pleural effusion", "Consolidation", "Bronchiectasis"}

PRESENT = {
    "Medical material": ("A central venous catheter is in place.", "There is a central venous catheter."),
    "Arterial wall calcification": ("Calcified plaques in the aorta.", "The aorta shows wall calcifications."),
    "Cardiomegaly": ("The heart is enlarged.", "Cardiomegaly is seen."),
    "Pericardial effusion": ("There is a small pericardial effusion.", "A little pericardial fluid is seen."),
    "Coronary artery wall calcification": (
        "Calcified plaques in the coronary arteries.",
        "Coronary artery calcifications are present.",
    ),
    "Hiatal hernia": ("A sliding hiatal hernia is seen.", "There is a hernia at the esophageal hiatus."),
    "Lymphadenopathy": ("Enlarged mediastinal lymph nodes.", "Mediastinal lymphadenopathy is observed."),
    "Emphysema": ("Emphysematous changes in both lungs.", "There is emphysema of both lungs."),
    "Atelectasis": ("Linear atelectasis in the {side} lower lobe.", "The {side} lower lobe has linear atelectases."),
    "Lung nodule": ("A 6 mm nodule in the {side} upper lobe.", "The {side} upper lobe contains a nodule of 6 mm."),
    "Lung opacity": (
        "Ground-glass opacities in the {side} lung.",
        "The {side} lung shows areas of ground-glass density.",
    ),
    "Pulmonary fibrotic sequela": ("Fibrotic sequelae in the lungs.", "There are sequela changes with fibrotic bands."),
    "Pleural effusion": ("A {side} pleural effusion is present.", "There is pleural fluid on the {side}."),
    "Mosaic attenuation pattern": ("A mosaic attenuation pattern is noted.", "The lungs show mosaic perfusion."),
    "Peribronchial thickening": ("Peribronchial thickening is observed.", "The bronchial walls are thickened."),
    "Consolidation": (
        "Consolidation is seen in the {side} lower lobe.",
        "The {side} lower lobe is consolidated.",
    ),
    "Bronchiectasis": ("Bronchiectasis in the {side} lower lobe.", "The {side} lower lobe has dilated bronchi."),
    "Interlobular septal thickening": (
        "Interlobular septal thickening is seen.",
        "The interlobular septa are thickened.",
    ),
}
NAMES = {name: name.lower() for name in FINDINGS} | {
    "Medical material": "catheter or other medical material",
    "Pulmonary fibrotic sequela": "fibrotic sequela",
    "Lung opacity": "ground-glass opacity",
}
DENIED = ("No {name}.", "There is no evidence of {name}.")
CLOSING = ("The bones are unremarkable.", "Bone structures are normal.")


@dataclass(frozen=True)
class Statement:
    """One sentence of a report: a finding that is there or not, on a side or on none, in one of two wordings."""

    finding: str
    is_there: bool
    side: str
    wording: int

    @property
    def text(self) -> str:
        if not self.is_there:
            return DENIED[self.wording].format(name=NAMES[self.finding])
        return PRESENT[self.finding][self.wording].format(side=self.side)


def make_report(rng: random.Random) -> list[Statement]:
    """Six to ten statements, at least one of them a finding with a side."""
    sided = rng.choice(sorted(SIDED))
    others = rng.sample([name for name in FINDINGS if name != sided], rng.randint(5, 9))
    statements = [
        Statement(name, name == sided or rng.random() < 0.4, rng.choice(("left", "right")), rng.randint(0, 1))
        for name in (sided, *others)
    ]
    rng.shuffle(statements)
    return statements


def written(statements: list[Statement], *, closing: int = 0) -> str:
    return " ".join([*(statement.text for statement in statements), CLOSING[closing]])


def changed(statements: list[Statement], change: str, rng: random.Random) -> str:
    """The report with one change."""
    if change == "paraphrase":
        return written([replace(one, wording=1 - one.wording) for one in statements], closing=1)
    if change == "negation":
        places = range(len(statements))
    elif change == "side":
        places = [place for place, one in enumerate(statements) if one.is_there and one.finding in SIDED]
    else:
        places = [place for place, one in enumerate(statements) if one.is_there]
    place = rng.choice(list(places))
    one = statements[place]
    if change == "negation":
        return written([*statements[:place], replace(one, is_there=not one.is_there), *statements[place + 1 :]])
    if change == "side":
        side = "left" if one.side == "right" else "right"
        return written([*statements[:place], replace(one, side=side), *statements[place + 1 :]])
    return written([*statements[:place], *statements[place + 1 :]])


def label_scores(said: list[str], true: list[str]) -> dict[str, np.ndarray]:
    """Per report: F1 of its findings, of its (finding, side) pairs, and its CRG, by the rules."""
    names = [str(number) for number in range(len(said))]
    ours, theirs = label_texts(names, said), label_texts(names, true)
    counts = count(ours, theirs)
    tp, fp, fn, tn = (each.sum(axis=1) for each in (counts.tp, counts.fp, counts.fn, counts.tn))
    sides = []
    for name in names:
        pairs = [
            {(finding, side) for (scan, finding), place in labels.places.items() if scan == name for side in place.side}
            for labels in (ours, theirs)
        ]
        sides.append(2 * len(pairs[0] & pairs[1]) / max(1, len(pairs[0]) + len(pairs[1])))
    return {
        "findings F1": 2 * tp / (2 * tp + fp + fn),
        "CRG": np.array([crg(*row) or np.nan for row in zip(tp, fp, fn, tn, strict=True)]),
        "side F1": np.array(sides),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reports", type=int, default=200)
    parser.add_argument("--seed", type=int, default=22)
    parser.add_argument("--bertscore", default=None)
    parser.add_argument("--bertscore-layer", type=int, default=None)
    parser.add_argument("--radeval", action="append", default=[])
    parser.add_argument("--radeval-python", type=Path, default=None)
    chosen = parser.parse_args()
    rng = random.Random(chosen.seed)
    reports = [make_report(rng) for _ in range(chosen.reports)]
    true = [written(report) for report in reports]
    table: dict[str, dict[str, list[float]]] = {}
    missing: dict[str, str] = {}
    for change in CHANGES:
        said = [changed(report, change, rng) for report in reports]
        scores = score_texts(said, true, bertscore=chosen.bertscore, layer=chosen.bertscore_layer)
        values = {**scores.values, **label_scores(said, true)}
        missing |= scores.missing
        if chosen.radeval:
            found = radeval_scores(list(zip(said, true, strict=True)), chosen.radeval, python=chosen.radeval_python)
            values |= {f"RadEval {name}": np.array(given) for name, given in found.values.items()}
            missing |= found.missing
        for name, given in values.items():
            scaled = given / 10 if name == "cider" else given
            interval = mean_interval(scaled)
            table.setdefault(name, {})[change] = [interval.value, interval.low, interval.high]
    print("| metric | " + " | ".join(CHANGES) + " | falls for an error more than for other words |")
    print("|---|" + "---|" * (len(CHANGES) + 1))
    for name, row in table.items():
        cells = [f"{100 * value:.1f} ({100 * low:.1f}…{100 * high:.1f})" for value, low, high in row.values()]
        below = [change for change in CHANGES[1:] if row[change][0] < row["paraphrase"][0]]
        print(f"| {name} | " + " | ".join(cells) + f" | {', '.join(below) or 'none'} |")
    for name, why in missing.items():
        print(f"not had: {name}: {why}")
    RESULTS.mkdir(exist_ok=True)
    document = {"reports": chosen.reports, "seed": chosen.seed, "table": table, "missing": missing}
    (RESULTS / "metric_flips.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
