"""What is asked about the views of scans with label maps, and which of it is kept so that no answer can be guessed?

Every view offers candidates; of those about one structure in one patient as many are kept for each answer ("yes" as
often as "no", each third as often as another), so that neither the patient nor the wording tells. All texts are made
from templates. Those of `HELD_BACK` are used in the validation and test splits only, beside the others, and their
questions' ids end in ":held-back". Slices are counted from 1 to the number that a model's grid has, bottom to top.

Topics that even slice weights cannot answer, because an average of all slices does not hold it: `NEEDS_SLICES`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator

from slicesight.data.manifest import LETTERS, Conversation, Split, Task
from slicesight.data.sources.mask_texts import TEXTS, draw
from slicesight.data.sources.mask_texts_held_back import HELD_BACK
from slicesight.data.sources.mask_truth import ScanTruth, Seen, View
from slicesight.errors import InputError

NEEDS_SLICES = ("most", "count", "near", "higher")
SIZE_SHARE = 1.15
"""One of a pair is larger where it has so many times the other's voxels."""
THIRDS = ("lower third", "middle third", "upper third")
SIZES = ("small", "medium", "large")
BORDER = 0.05
"""A structure's middle this near to the border of two thirds, as a share of the view, is in neither."""
NEAR_SLICES = 4
LEAST_OF_RARER = 0.2
"""Which of two lies higher is asked where the rarer order has this share of all patients."""

OPEN_FORMS = ("presence", "third", "side", "larger", "modality", "region", "plane")
"""Topics whose questions are also asked without their choices."""
_SLICES_OF_ALL = ("report", "modality", "region", "plane", "side")


@dataclass(frozen=True, kw_only=True)
class AskedScan:
    """One scan with its truth and the views that are asked about. labels: its label map, None without one."""

    name: str
    patient: str
    split: Split | None
    volume: Path
    labels: Path | None
    truth: ScanTruth
    facts: dict[str, str]
    views: tuple[View, ...]
    rng: Generator


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    """Something that could be asked of one view.

    subject: what the texts name, and within which answers are balanced (`group`, if that is something else).
    """

    view: int
    topic: str
    answer: str
    subject: tuple[str, ...] = ()
    group: tuple[str, ...] | None = None
    choices: tuple[str, ...] | None = None
    slices: tuple[int, ...] = ()


def write_conversations(
    scans: Sequence[AskedScan], *, num_slices: int, most: int, open_share: float = 0.0
) -> dict[tuple[str, int], tuple[Conversation, ...]]:
    """(scan's name, number of its view) -> what is asked there.

    Args:
        num_slices: of the grid. most: at most so many of one kind about one subject in one patient, for each answer.
        open_share: of the questions of `OPEN_FORMS`, how many do not name their choices.

    Raises:
        InputError: a structure that is asked for is in view everywhere, so that the answer is always yes.
    """
    writer = _Writer(scans, num_slices=num_slices)
    writer.check_negatives()
    found: dict[tuple[str, int], list[Conversation]] = {
        (scan.name, number): [] for scan in scans for number in range(len(scan.views))
    }
    for scan in scans:
        candidates = [candidate for number in range(len(scan.views)) for candidate in writer.candidates(scan, number)]
        for candidate in _balanced(candidates, scan.rng, most=most):
            asked = found[scan.name, candidate.view]
            asked.append(_conversation(scan, _opened(candidate, scan.rng, open_share), number=len(asked)))
        for number in range(len(scan.views)):
            if report := writer.report(scan, number):
                asked = found[scan.name, number]
                asked.insert(0, _conversation(scan, report, number=len(asked)))
    return {place: tuple(asked) for place, asked in found.items()}


def range_text(first: int, last: int, num_slices: int) -> str:
    """ "slices 9 to 17 of 32"."""
    return f"slice {first} of {num_slices}" if first == last else f"slices {first} to {last} of {num_slices}"


class _Writer:
    def __init__(self, scans: Sequence[AskedScan], *, num_slices: int) -> None:
        self.scans, self.num_slices = scans, num_slices
        self.seen: dict[tuple[str, int], dict[str, Seen]] = {
            (scan.name, number): {name: scan.truth.look(name, view) for name in scan.truth.structures}
            for scan in scans
            for number, view in enumerate(scan.views)
        }
        training = [scan for scan in scans if scan.split in (None, "train")] or list(scans)
        self.sizes = {name: np.quantile(found, [1 / 3, 2 / 3]) for name, found in _volumes(training).items()}
        self.facts = {
            key: tuple(sorted({scan.facts[key] for scan in scans if key in scan.facts}))
            for key in ("modality", "region", "plane")
        }
        self.both_orders = self._both_orders(training)

    def check_negatives(self) -> None:
        """InputError for a structure of which every view says the same."""
        states: dict[str, set[str]] = defaultdict(set)
        asked = {name for scan in self.scans for name, structure in scan.truth.structures.items() if structure.ask}
        for seen in self.seen.values():
            for name, what in seen.items():
                states[name].add(what.state)
        for name in sorted(asked):
            if "absent" not in states[name]:
                raise InputError(
                    f"structures: no view of any scan is known to lack the {name}, so asking whether it is there has "
                    "one answer; set ask: false for it"
                )

    def candidates(self, scan: AskedScan, number: int) -> list[_Candidate]:
        view, seen = scan.views[number], self.seen[scan.name, number]
        asked = {name: what for name, what in seen.items() if scan.truth.structures[name].ask}
        found = [
            _Candidate(
                view=number, topic="presence", answer="yes" if what.state == "present" else "no", subject=(name,),
                choices=("yes", "no"), slices=what.slices,
            )
            for name, what in asked.items()
            if what.state != "unknown" and (view.side is None or scan.truth.structures[name].side)
        ]  # fmt: skip
        if view.side is not None:
            halves = ("left half", "right half")
            return [*found, _Candidate(view=number, topic="side", answer=f"{view.side} half", choices=halves)]
        found += self._fours(scan, number, asked)
        for name, what in asked.items():
            if what.state == "present":
                found += self._places(scan, number, name, what)
        found += self._pairs(scan, number, asked)
        for key, choices in self.facts.items():
            if key in scan.facts and len(choices) > 1 and number % 3 == 0:
                wrong = [choice for choice in choices if choice != scan.facts[key]]
                drawn = [wrong[i] for i in scan.rng.permutation(len(wrong))[:3]]
                found.append(
                    _Candidate(view=number, topic=key, answer=scan.facts[key], choices=(scan.facts[key], *drawn))
                )
        return found

    def report(self, scan: AskedScan, number: int) -> _Candidate | None:
        """All that is known of a view, from the top down."""
        view, seen = scan.views[number], self.seen[scan.name, number]
        shown = {
            name: what for name, what in seen.items() if what.state == "present" and scan.truth.structures[name].ask
        }
        hidden = [name for name, what in seen.items() if what.state == "absent" and scan.truth.structures[name].ask]
        order = sorted(shown, key=lambda name: (-shown[name].slices[-1], name))
        named = [f"{name} ({range_text(*self._range(view, shown[name].slices), self.num_slices)})" for name in order]
        facts = scan.facts
        sentences = [f"{facts.get('modality', 'Scan')}{' of the ' + facts['region'] if 'region' in facts else ''}"]
        if view.side is not None:
            sentences[0] += f", {view.side} half"
        if named:
            sentences.append(f"In view: {', '.join(named)}")
        if hidden:
            sentences.append(f"Not in view: {', '.join(sorted(hidden))}")
        return _Candidate(view=number, topic="report", answer=". ".join(sentences) + ".")

    def _fours(self, scan: AskedScan, number: int, asked: dict[str, Seen]) -> list[_Candidate]:
        """Which of four is in view, and which is not; one of a pair stands for both."""
        known = {name: what.state == "present" for name, what in asked.items() if what.state != "unknown"}
        found = []
        for four in combinations(sorted(known), 4):
            pairs = [pair for name in four if (pair := scan.truth.structures[name].pair)]
            if len(set(pairs)) < len(pairs):
                continue
            shown = [name for name in four if known[name]]
            for topic, odd in (("in view", shown), ("not in view", [name for name in four if not known[name]])):
                if len(odd) == 1:
                    slices = asked[odd[0]].slices
                    found.append(
                        _Candidate(view=number, topic=topic, answer=odd[0], group=four, choices=four, slices=slices)
                    )
        return found

    def _places(self, scan: AskedScan, number: int, name: str, what: Seen) -> list[_Candidate]:
        """Where along the view a structure lies; the range needs no balance, its truth has too many values."""
        view, shown = scan.views[number], what.slices
        first, last = self._range(view, shown)
        facts: dict[str, Any] = {"view": number, "subject": (name,), "slices": shown}
        free = {**facts, "group": (name, str(number))}
        found = [_Candidate(topic="slices", answer=range_text(first, last, self.num_slices), **free)]
        voxels = np.array(what.voxels)
        middle = (float((voxels * np.arange(len(voxels))).sum() / voxels.sum()) + 0.5) / len(voxels)
        if what.is_whole and min(abs(middle - 1 / 3), abs(middle - 2 / 3)) > BORDER:
            found.append(_Candidate(topic="third", answer=THIRDS[int(middle * 3)], choices=THIRDS, **facts))
        if what.is_whole:
            fullest = self._place(view, view.first + int(voxels.argmax()))
            count = last - first + 1
            found.append(_Candidate(topic="most", answer=f"slice {fullest} of {self.num_slices}", **free))
            found.append(_Candidate(topic="count", answer=f"{count} of {self.num_slices} slices", **free))
            found += self._near(scan, number, name, first, last, shown)
            if name in self.sizes and (volume := scan.truth.volume_ml(name)) is not None:
                size = SIZES[int(np.searchsorted(self.sizes[name], volume))]
                found.append(_Candidate(topic="size", answer=size, choices=SIZES, **free))
        return found

    def _near(
        self, scan: AskedScan, number: int, name: str, first: int, last: int, shown: tuple[int, ...]
    ) -> list[_Candidate]:
        """Of two short ranges near each other, which one shows it; the right one is the lower as often as the upper."""
        found = []
        for is_lower in (True, False):
            inside = int(scan.rng.integers(first, max(first, last - NEAR_SLICES + 1) + 1))
            right = (inside, min(inside + NEAR_SLICES - 1, last))
            gap = int(scan.rng.integers(2, 5))
            start = last + gap if is_lower else first - gap - NEAR_SLICES + 1
            wrong = (start, start + NEAR_SLICES - 1)
            if wrong[0] < 1 or wrong[1] > self.num_slices:
                continue
            texts = [f"slices {a} to {b}" for a, b in sorted((right, wrong))]
            group = (name, "lower" if is_lower else "upper")
            answer = texts[0 if is_lower else 1]
            found.append(
                _Candidate(
                    view=number, topic="near", answer=answer, subject=(name,), group=group, choices=tuple(texts),
                    slices=shown,
                )
            )  # fmt: skip
        return found if len(found) == 2 else []

    def _pairs(self, scan: AskedScan, number: int, asked: dict[str, Seen]) -> list[_Candidate]:
        whole = {name: what for name, what in asked.items() if what.state == "present" and what.is_whole}
        structures, found = scan.truth.structures, []
        for one, other in combinations(sorted(whole), 2):
            slices = tuple(sorted({*whole[one].slices, *whole[other].slices}))
            if structures[one].pair and structures[one].pair == structures[other].pair:
                sizes = [sum(whole[name].voxels) for name in (one, other)]
                if max(sizes) >= SIZE_SHARE * min(sizes):
                    swap = bool(scan.rng.integers(2))
                    subject = (other, one) if swap else (one, other)
                    answer = "yes" if (sizes[0] > sizes[1]) != swap else "no"
                    found.append(
                        _Candidate(
                            view=number, topic="larger", answer=answer, subject=subject, group=(str(number),),
                            choices=("yes", "no"), slices=slices,
                        )
                    )  # fmt: skip
            if (one, other) in self.both_orders:
                middles = [float(np.mean(whole[name].slices)) for name in (one, other)]
                if abs(middles[0] - middles[1]) >= 1:
                    answer = one if middles[0] > middles[1] else other
                    found.append(
                        _Candidate(
                            view=number, topic="higher", answer=answer, subject=(one, other), group=(str(number), one),
                            choices=(one, other), slices=slices,
                        )
                    )  # fmt: skip
        return found

    def _both_orders(self, scans: Sequence[AskedScan]) -> set[tuple[str, str]]:
        """Pairs of structures of which now one, now the other lies higher."""
        orders: dict[tuple[str, str], list[bool]] = defaultdict(list)
        for scan in scans:
            counts = {name: scan.truth.counts[name].sum(axis=1) for name in sorted(scan.truth.structures)}
            middles = {name: float((row * np.arange(len(row))).sum() / row.sum()) for name, row in counts.items()}
            for one, other in combinations(sorted(middles), 2):
                orders[one, other].append(middles[one] > middles[other])
        return {pair for pair, found in orders.items() if LEAST_OF_RARER <= float(np.mean(found)) <= 1 - LEAST_OF_RARER}

    def _range(self, view: View, slices: tuple[int, ...]) -> tuple[int, int]:
        return self._place(view, slices[0]), self._place(view, slices[-1])

    def _place(self, view: View, number: int) -> int:
        """The slice of the grid, from 1, that a canonical slice of the view comes to lie in."""
        return 1 + int((number - view.first + 0.5) * self.num_slices / view.num_slices)


def _volumes(scans: Sequence[AskedScan]) -> dict[str, list[float]]:
    """Every structure's volumes in ml, where there are enough of them for three classes."""
    found: dict[str, list[float]] = defaultdict(list)
    for scan in scans:
        for name, structure in scan.truth.structures.items():
            if structure.ask and (volume := scan.truth.volume_ml(name)) is not None:
                found[name].append(volume)
    return {name: volumes for name, volumes in found.items() if len(volumes) >= 10}


def _balanced(candidates: list[_Candidate], rng: Generator, *, most: int) -> list[_Candidate]:
    """As many candidates for each answer of a group, drawn; a group with one answer is left out where it has choices.

    Groups of one view (facts, ranges) are kept as they are: what balances them is another patient.
    """
    groups: dict[tuple[str, ...], dict[str, list[_Candidate]]] = defaultdict(lambda: defaultdict(list))
    kept: list[_Candidate] = []
    for candidate in candidates:
        key = candidate.subject if candidate.group is None else candidate.group
        if candidate.topic in ("presence", "in view", "not in view", "third"):
            groups[(candidate.topic, *key)][candidate.answer].append(candidate)
        elif candidate.topic == "near":
            groups[(candidate.topic, candidate.subject[0])][key[1]].append(candidate)
        else:
            groups[(candidate.topic, *candidate.subject)][""].append(candidate)
    for (topic, *_), by_answer in groups.items():
        if topic in ("presence", "in view", "not in view", "third", "near") and len(by_answer) < 2:
            continue
        limit = 1 if topic in ("in view", "not in view") else most
        count = min(limit, *(len(found) for found in by_answer.values())) if len(by_answer) > 1 else limit
        for found in by_answer.values():
            kept += [found[i] for i in sorted(rng.permutation(len(found))[:count].tolist())]
    return sorted(kept, key=lambda candidate: candidate.view)


def _opened(candidate: _Candidate, rng: Generator, share: float) -> _Candidate:
    """The same without its choices, now and then."""
    if share and candidate.topic in OPEN_FORMS and rng.random() < share:
        return replace(candidate, choices=None)
    return candidate


def _conversation(scan: AskedScan, candidate: _Candidate, *, number: int) -> Conversation:
    texts = TEXTS[candidate.topic]
    words = [_word(scan, name) for name in candidate.subject]
    if scan.split in HELD_BACK and scan.rng.integers(2):
        texts, ending = HELD_BACK[scan.split][candidate.topic], ":held-back"
        question = texts[scan.rng.integers(len(texts))].format(*words)
    else:
        ending = ""
        question = draw(texts[scan.rng.integers(len(texts))], scan.rng).format(*words)
    about = "+".join(candidate.subject or (candidate.group or ())).replace(" ", "_")
    name = f"{scan.name}#{candidate.view}:{number}:{candidate.topic.replace(' ', '_')}:{about}{ending}"
    slices = None if candidate.topic in _SLICES_OF_ALL else scan.truth.source(candidate.slices) or None
    if candidate.choices is None:
        task: Task = "report" if candidate.topic == "report" else "open"
        return Conversation(
            id=name, task=task, topic=candidate.topic, question=question, answer=candidate.answer, source_slices=slices
        )
    ordered = candidate.choices
    if candidate.topic not in ("third", "size", "near"):
        ordered = tuple(candidate.choices[i] for i in scan.rng.permutation(len(candidate.choices)))
    return Conversation(
        id=name,
        task="closed",
        topic=candidate.topic,
        question=question,
        choices=ordered,
        answer=candidate.answer,
        answer_choice=LETTERS[ordered.index(candidate.answer)],
        source_slices=slices,
    )


def _word(scan: AskedScan, name: str) -> str:
    """The structure's name, or now and then another word for it."""
    words = scan.truth.structures[name].words
    return words[scan.rng.integers(len(words))] if words and scan.rng.random() < 0.25 else name
