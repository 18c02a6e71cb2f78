"""Does a system find what is there? Precision, recall, F1, AUROC, AP and CRG of findings, with intervals by scan.

V scans, F findings, R draws. TP, FP, FN per finding. F1 = 2TP / (2TP + FP + FN), null where that is 0/0; macro is the
mean over the findings that have one, micro pools all labels.
CRG (arXiv 2505.17167): A positives among T labels, w = (T - A) / (2A), s = TP w - FN w - FP, S = A w,
CRG = S / (2S - s): 1 for the truth, 1/3 for a system that never finds anything.
Laterality and location are labels too: of the findings that both say are there, how many are on the same side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slicesight.evaluation.metrics.labels import DETAILS, Labels, Place
from slicesight.evaluation.statistics import FLIPS, bounds, draw_counts, draw_sums, holm

Floats = NDArray[np.float64]
LABEL_METRICS = ("precision", "recall", "f1")
RANK_METRICS = ("auroc", "average_precision")
COMPARED = ("macro_f1", "micro_f1", "crg")
NO_PROBABILITY = "only yes and no are known; give probabilities in the csv of labels"
NO_PLACE = "no label says a {}; the rules and csv columns `FINDING: {}` do"
_MOST = 2_000_000
"""Weights that are held at once."""
CONTROLS = ("nothing", "everything", "another_scan")
"""What a system scores that never finds anything, that always finds everything, and that speaks of another scan."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """TP, FP, FN and TN of every scan and finding, each (V, F); all 0 where the truth or what was said is unknown."""

    tp: Floats
    fp: Floats
    fn: Floats
    tn: Floats

    @property
    def all_VC(self) -> Floats:
        """(V, 4F), ready to be summed over scans."""
        return np.concatenate([self.tp, self.fp, self.fn, self.tn], axis=1)


def count(said: Labels, true: Labels) -> Counts:
    """The counts of two tables of the same scans and findings."""
    known = ~np.isnan(said.present) & ~np.isnan(true.present)
    yes, is_there = known & (said.present == 1), known & (true.present == 1)
    parts = (yes & is_there, yes & ~is_there, ~yes & is_there, known & ~yes & ~is_there)
    tp, fp, fn, tn = (part.astype(np.float64) for part in parts)
    return Counts(tp=tp, fp=fp, fn=fn, tn=tn)


def crg(tp: float, fp: float, fn: float, tn: float) -> float | None:
    """CRG of pooled counts; None where nothing is positive or everything is, and no weight is defined."""
    positives, total = tp + fn, tp + fp + fn + tn
    if positives == 0 or positives == total:
        return None
    weight = (total - positives) / (2 * positives)
    score, best = tp * weight - fn * weight - fp, positives * weight
    return float(best / (2 * best - score))


def clinical_part(said: Labels, true: Labels, *, is_control: bool = False) -> dict[str, Any]:
    """The sheet's part of one system; said, true: tables of the same scans and findings (`labels.matched`)."""
    counts = count(said, true)
    summed = _figures(counts.all_VC.sum(axis=0)[None])
    drawn = _figures(draw_sums(counts.all_VC))
    ranks = _ranks(said, true)
    drawn_ranks = _drawn_ranks(said, true) if ranks else {}
    both, both_drawn = {**summed, **ranks}, {**drawn, **drawn_ranks}
    names = [*LABEL_METRICS, *RANK_METRICS]
    num_volumes = len(true.volumes)
    part: dict[str, Any] = {
        "num_volumes": num_volumes,
        "num_labels": int(counts.all_VC.sum()),
        "num_positive": int((counts.tp + counts.fn).sum()),
        "crg": _number(summed["crg"][0]),
        "micro": {name: _first(both, f"micro_{name}") for name in names},
        "macro": {name: _first(both, f"macro_{name}") for name in names},
        "num_findings_in_macro": int(np.count_nonzero(~np.isnan(summed["f1"][0]))),
        "ci95": {
            "crg": _ends(drawn["crg"], num_volumes),
            **{
                average: {name: _ends(both_drawn.get(f"{average}_{name}"), num_volumes) for name in names}
                for average in ("micro", "macro")
            },
        },
    }
    if is_control:
        return part
    there, said_there = counts.tp + counts.fn > 0, counts.tp + counts.fp > 0
    sides = {"precision": said_there, "recall": there, "f1": there | said_there}
    told = {name: np.count_nonzero(of_scans, axis=0) for name, of_scans in sides.items()}  # scans that a figure is of
    part["findings"] = {
        finding: {
            "num_positive": int((counts.tp + counts.fn)[:, place].sum()),
            "num_said": int((counts.tp + counts.fp)[:, place].sum()),
            **{name: _number(both[name][0, place]) if name in both else None for name in names},
            "ci95": {
                name: _ends(both_drawn[name][:, place], told.get(name, told["f1"])[place]) if name in both else None
                for name in names
            },
        }
        for place, finding in enumerate(true.findings)
    }
    part |= {kind: _places(said, true, kind) for kind in DETAILS}
    part["controls"] = {name: clinical_part(_control(name, said), true, is_control=True) for name in CONTROLS}
    part["labels"] = {"said": dict(said.about), "true": dict(true.about)}
    return part


def missing_of(part: Mapping[str, Any]) -> dict[str, str]:
    """Why something of the part is null, by name."""
    missing = {}
    if part["micro"]["auroc"] is None:
        missing["clinical.auroc"] = missing["clinical.average_precision"] = NO_PROBABILITY
    if part["crg"] is None:
        missing["clinical.crg"] = "no label of the truth is positive, or every one is: CRG has no weight"
    missing |= {f"clinical.{kind}": NO_PLACE.format(kind, kind) for kind in DETAILS if part[kind] is None}
    return missing


def compare_clinical(systems: Mapping[str, tuple[Labels, Labels]]) -> list[dict[str, Any]]:
    """Every pair of systems on COMPARED: difference, interval, permutation of the two systems' labels scan by scan.

    systems: name -> (said, true). Holm's correction is over these comparisons alone.
    """
    names, found = list(systems), []
    for place, first in enumerate(names):
        for second in names[place + 1 :]:
            ours, theirs = _on_common_scans(systems[first], systems[second])
            for metric in COMPARED:
                entry: dict[str, Any] = {"first": first, "second": second, "task": "clinical", "metric": metric}
                if not len(ours):
                    found.append({**entry, "p": None, "missing": "the two systems share no scan"})
                    continue
                found.append({**entry, **_paired(ours, theirs, metric)})
    tested = [entry for entry in found if entry["p"] is not None]
    for one, corrected in zip(tested, holm([one["p"] for one in tested]), strict=True):
        one["p_holm"] = corrected
    return found


def auroc(is_there: NDArray[np.bool_], probability: Floats, weights_rV: Floats) -> Floats:
    """Area under the ROC curve in every draw -> (r,); ties count half, NaN without both classes."""
    (positive, negative), _ = _by_threshold(is_there, probability, weights_rV)
    below = np.cumsum(negative, axis=1) - negative
    with np.errstate(invalid="ignore", divide="ignore"):
        area = (positive * (below + negative / 2)).sum(axis=1) / (positive.sum(axis=1) * negative.sum(axis=1))
    return np.asarray(area)


def average_precision(is_there: NDArray[np.bool_], probability: Floats, weights_rV: Floats) -> Floats:
    """Average precision in every draw -> (r,), as scikit-learn has it; NaN without a positive."""
    (positive, negative), _ = _by_threshold(is_there, -probability, weights_rV)
    found, all_found = np.cumsum(positive, axis=1), np.cumsum(positive + negative, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(all_found > 0, found / all_found, 0.0)
        return np.asarray((precision * positive).sum(axis=1) / positive.sum(axis=1))


def _by_threshold(
    is_there: NDArray[np.bool_], value: Floats, weights_rV: Floats
) -> tuple[tuple[Floats, Floats], NDArray[np.int64]]:
    """Weight of positives and negatives at each distinct value, ascending -> ((r, K), (r, K))."""
    order = np.argsort(value, kind="stable")
    starts = np.flatnonzero(np.diff(value[order], prepend=-np.inf) > 0)
    sorted_rV, there = weights_rV[:, order], is_there[order]
    positive = np.add.reduceat(sorted_rV * there, starts, axis=1)
    negative = np.add.reduceat(sorted_rV * ~there, starts, axis=1)
    return (positive, negative), starts


def _figures(sums_R4F: Floats) -> dict[str, Floats]:
    """Every figure of counts summed over scans: by finding (R, F), macro, micro and CRG (R,)."""
    tp, fp, fn, tn = np.split(sums_R4F, 4, axis=1)
    found = {}
    with np.errstate(invalid="ignore", divide="ignore"):
        for name, above, below in (
            ("precision", tp, tp + fp),
            ("recall", tp, tp + fn),
            ("f1", 2 * tp, 2 * tp + fp + fn),
        ):
            # a finding that is there or was said has all three; what has no denominator is 0, as scikit-learn has it
            is_known = tp + fp + fn > 0
            found[name] = np.where(is_known, np.where(below > 0, above / below, 0.0), np.nan)
            known = is_known.sum(axis=1)
            found[f"macro_{name}"] = np.where(known > 0, np.nansum(found[name], axis=1) / known, np.nan)
            total = below.sum(axis=1)
            found[f"micro_{name}"] = np.where(total > 0, above.sum(axis=1) / total, 0.0 if tn.any() else np.nan)
        pooled = [part.sum(axis=1) for part in (tp, fp, fn, tn)]
        positives, labels = pooled[0] + pooled[2], sum(pooled)
        weight = (labels - positives) / (2 * positives)
        score, best = pooled[0] * weight - pooled[2] * weight - pooled[1], positives * weight
        found["crg"] = np.where((positives > 0) & (positives < labels), best / (2 * best - score), np.nan)
    return found


def _ranks(said: Labels, true: Labels) -> dict[str, Floats]:
    """AUROC and AP of the probabilities themselves, as one draw that holds each scan once."""
    return {} if said.probability is None else _rank_figures(said, true, np.ones((1, len(true.volumes))))


def _drawn_ranks(said: Labels, true: Labels) -> dict[str, Floats]:
    step = max(1, _MOST // max(1, true.present.size))
    parts = [
        _rank_figures(said, true, picked_rV[start : start + step])
        for picked_rV in draw_counts(len(true.volumes))
        for start in range(0, len(picked_rV), step)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _rank_figures(said: Labels, true: Labels, weights_rV: Floats) -> dict[str, Floats]:
    assert said.probability is not None
    found: dict[str, Floats] = {}
    num_findings = len(true.findings)
    known_VF = ~np.isnan(true.present) & ~np.isnan(said.probability)
    for name, function in (("auroc", auroc), ("average_precision", average_precision)):
        columns = [
            _rank(function, true.present[:, place], said.probability[:, place], known_VF[:, place], weights_rV)
            for place in range(num_findings)
        ]
        each_rF = np.stack(columns, axis=1)
        found[name] = each_rF
        known = np.count_nonzero(~np.isnan(each_rF), axis=1)
        with np.errstate(invalid="ignore"):
            found[f"macro_{name}"] = np.where(known > 0, np.nansum(each_rF, axis=1) / known, np.nan)
        repeated_rVF = np.repeat(weights_rV, num_findings, axis=1)
        found[f"micro_{name}"] = _rank(
            function, true.present.ravel(), said.probability.ravel(), known_VF.ravel(), repeated_rVF
        )
    return found


def _rank(
    function: Callable[[NDArray[np.bool_], Floats, Floats], Floats],
    present: Floats,
    probability: Floats,
    known: NDArray[np.bool_],
    weights_rV: Floats,
) -> Floats:
    if not known.any():
        return np.full(len(weights_rV), np.nan)
    is_there = present[known] == 1
    values = function(is_there, probability[known], weights_rV[:, known])
    return np.where(is_there.any() and (~is_there).any(), values, np.nan)


def _places(said: Labels, true: Labels, kind: str) -> dict[str, Any] | None:
    """Of the findings that both say are there and that the truth gives a side (a location): how many agree.

    precision, recall and F1 are over all (finding, side) of all scans, so that a missed finding costs here too.
    """
    rows = []
    for at, volume in enumerate(true.volumes):
        numbers = np.zeros(5)
        for place, finding in enumerate(true.findings):
            told = _told(said, at, place, volume, finding, kind)
            truth = _told(true, at, place, volume, finding, kind)
            common = len((told or frozenset()) & (truth or frozenset()))
            numbers += (common, len(told or ()), len(truth or ()), 0, 0)
            if truth and told is not None:
                numbers[3:] += (told == truth, 1)
        rows.append(numbers)
    rows_V5 = np.array(rows)
    if not rows_V5[:, 2].any():
        return None

    def figures(sums_R5: Floats) -> dict[str, Floats]:
        common, told, truth, same, both = sums_R5.T
        with np.errstate(invalid="ignore", divide="ignore"):
            return {
                "agreement": np.where(both > 0, same / both, np.nan),
                "precision": np.where(told > 0, common / told, 0.0),
                "recall": np.where(truth > 0, common / truth, np.nan),
                "f1": np.where(told + truth > 0, 2 * common / (told + truth), np.nan),
            }

    values, drawn = figures(rows_V5.sum(axis=0)[None]), figures(draw_sums(rows_V5))
    return {
        "num_both": int(rows_V5[:, 4].sum()),
        **{name: _number(value[0]) for name, value in values.items()},
        "ci95": {name: _ends(drawn[name], len(rows_V5)) for name in values},
    }


def _told(labels: Labels, at: int, place: int, volume: str, finding: str, kind: str) -> frozenset[str] | None:
    """Where the finding is said to be; None where it is not said to be there."""
    if labels.present[at, place] != 1:
        return None
    found: frozenset[str] = getattr(labels.places.get((volume, finding), Place()), kind)
    return found


def _control(name: str, said: Labels) -> Labels:
    shape = said.present.shape
    if name == "another_scan":
        order = np.roll(np.arange(shape[0]), 1)
        probability_VF = None if said.probability is None else said.probability[order]
        return Labels(
            volumes=said.volumes,
            findings=said.findings,
            present=said.present[order],
            probability=probability_VF,
        )
    value = np.full(shape, float(name == "everything"))
    probability_VF = None if said.probability is None else np.full(shape, 0.5)
    return Labels(volumes=said.volumes, findings=said.findings, present=value, probability=probability_VF)


def _on_common_scans(one: tuple[Labels, Labels], other: tuple[Labels, Labels]) -> tuple[Floats, Floats]:
    common = [name for name in one[1].volumes if name in set(other[1].volumes)]
    if not common or set(one[1].findings) != set(other[1].findings):
        empty = np.zeros((0, 4))
        return empty, empty
    sides = []
    for said, true in (one, other):
        sides.append(count(said.rows(common, one[1].findings), true.rows(common, one[1].findings)).all_VC)
    return sides[0], sides[1]


def _paired(ours_VC: Floats, theirs_VC: Floats, metric: str, *, seed: int = 0) -> dict[str, Any]:
    """Difference (ours - theirs), its bootstrap interval, and the two-sided p of swapping the two scan by scan."""

    def difference(one_RC: Floats, other_RC: Floats) -> Floats:
        return np.asarray(_figures(one_RC)[metric] - _figures(other_RC)[metric])

    num_volumes, columns = ours_VC.shape
    observed = float(difference(ours_VC.sum(axis=0)[None], theirs_VC.sum(axis=0)[None])[0])
    both_R = draw_sums(np.concatenate([ours_VC, theirs_VC], axis=1))
    drawn = difference(both_R[:, :columns], both_R[:, columns:])
    rng = np.random.default_rng(seed)
    total_C, extreme, step = (ours_VC + theirs_VC).sum(axis=0), 0, max(1, _MOST // num_volumes)
    for start in range(0, FLIPS, step):
        swaps_rV = rng.integers(0, 2, size=(min(step, FLIPS - start), num_volumes), dtype=np.int8)
        first_rC = ours_VC.sum(axis=0) + swaps_rV @ (theirs_VC - ours_VC)
        flipped = np.abs(difference(first_rC, total_C - first_rC))
        extreme += int(np.count_nonzero(flipped >= abs(observed) - 1e-12))
    return {
        "difference": observed,
        "ci95": bounds(drawn, num_volumes),
        "p": (1 + extreme) / (1 + FLIPS),
        "p_holm": None,
        "effect_size_d": None,
        "num_volumes": num_volumes,
    }


def _first(values: Mapping[str, Floats], name: str) -> float | None:
    return _number(values[name][0]) if name in values else None


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _ends(drawn: Floats | None, num_volumes: int) -> Sequence[float] | None:
    return None if drawn is None else bounds(drawn, num_volumes)
