"""How do scans with label maps, and a list of what the labels mean, become questions with known answers?

SOURCE is masks.yaml, or a folder that holds one; paths in it start at its folder, or at --volumes DIR:

    sets:
      - scan: "{patient}/ct.nii.gz"          # * may stand for anything
        labels: "{patient}/labels.nii.gz"    # left out: only the facts are asked
        facts: {modality: CT, region: head and neck}
        structures:
          brainstem: {label: 1, unknown: [above]}
          left parotid gland: {label: 4, side: left, pair: parotid gland}
        patients: patients.csv               # patient, split, leave_out (names with ; between, or all)

Every scan gives several cases: the whole of it, ranges of its slices and, where structures have sides, halves. What is
asked is balanced within each patient and structure, so that neither the patient nor the question gives the answer away
(mask_questions.py). A structure that was not drawn in a scan is unknown there, not absent.
"""

from __future__ import annotations

import csv
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.random import Generator

from slicesight.data.manifest import SPLITS, Case, Conversation, Reading, Split
from slicesight.data.sources.intake import Intake, SourceLocation, SourceRequest, split_of
from slicesight.data.sources.mask_questions import AskedScan, write_conversations
from slicesight.data.sources.mask_truth import ScanTruth, Structure, View, truth_of
from slicesight.data.sources.tables import read_text
from slicesight.errors import InputError
from slicesight.io.loading import read_volume
from slicesight.io.masks import read_labels
from slicesight.settings import read_settings
from slicesight.volumes.slice_range import Side

SOURCE = "masks"
SETTINGS_FILE = "masks.yaml"
_PATIENT = "{patient}"
SIDES: tuple[Side, Side] = ("left", "right")


@dataclass(frozen=True, kw_only=True)
class MaskSet:
    """Scans of one kind: where they lie, what their labels mean, and what is true of all of them."""

    scan: str
    labels: str | None = None
    structures: dict[str, Structure] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    patients: str | None = None

    def __post_init__(self) -> None:
        if _PATIENT not in self.scan:
            raise InputError(f"scan: {self.scan!r} does not say where the patient stands; expected {_PATIENT} in it")
        if (self.labels is None) != (not self.structures):
            raise InputError("labels and structures belong together; give both, or neither")
        known: dict[str, str] = {}
        values: dict[int, str] = {}
        for name, structure in self.structures.items():
            for word in (name, *structure.words):
                if (other := known.setdefault(word.lower(), name)) != name:
                    raise InputError(f"structures: {other} and {name} are both called {word!r}; rename one")
            if (other := values.setdefault(structure.label, name)) != name:
                raise InputError(f"structures: {other} and {name} both have the label {structure.label}; mend one")


@dataclass(frozen=True, kw_only=True)
class MaskSettings:
    """What masks.yaml holds.

    ranges, halves: views of each scan beside the whole of it. num_slices: of the grid that a model will read, in which
    answers count slices. questions: at most so many of one kind about one structure in one patient, for each answer.
    open_share: how many of the questions that have choices are asked without them.
    """

    sets: tuple[MaskSet, ...]
    ranges: int = 16
    halves: int = 4
    num_slices: int = 32
    questions: int = 3
    open_share: float = 0.5
    seed: int = 0


def read_masks(request: SourceRequest, intake: Intake) -> list[Case]:
    """The cases of every set, each with its questions.

    Raises:
        InputError: the settings say what cannot be, or a structure is in every view, so that its question has one
            answer.
    """
    file = request.source / SETTINGS_FILE if request.source.is_dir() else request.source
    if not file.is_file():
        raise InputError(f"{file}: no such file; expected a list of scans and what their labels mean")
    settings = read_settings(MaskSettings, file, verb="prepare", needs_verb=False)
    root = request.volumes or file.parent
    scans: list[AskedScan] = []
    for number, each in enumerate(settings.sets):
        where = f"{file.name}: sets.{number}"
        listed = _listed_patients(file.parent / each.patients, each) if each.patients else {}
        found = sorted(_scans(root, each.scan))
        if not found:
            raise InputError(
                f"{where}: no scan lies at {root / each.scan}; correct scan, or name the folder by --volumes"
            )
        for patient, scan in found:
            if each.patients and patient not in listed:
                intake.leave_out("not listed", f"{each.patients} does not name this patient", case_id=patient)
                continue
            split, leave_out = listed.get(patient, (None, frozenset[str]()))
            name = scan.relative_to(root).as_posix() if scan.is_relative_to(root) else scan.name
            try:
                scans.append(_read(each, patient, scan, name, split, leave_out, root, settings))
            except InputError as error:
                intake.refuse("unusable label map", f"{error}", SourceLocation(name), case_id=name)
    conversations = write_conversations(
        scans, num_slices=settings.num_slices, most=settings.questions, open_share=settings.open_share
    )
    return [
        _case(scan, number, conversations[scan.name, number])
        for scan in scans
        for number in range(len(scan.views))
        if conversations[scan.name, number]
    ]


def _read(
    each: MaskSet,
    patient: str,
    scan: Path,
    name: str,
    split: Split | None,
    leave_out: frozenset[str],
    root: Path,
    settings: MaskSettings,
) -> AskedScan:
    volume = read_volume(scan)
    rng = np.random.default_rng([settings.seed, zlib.crc32(name.encode())])
    place = None
    if each.labels is not None and leave_out != frozenset(each.structures):
        place = root / each.labels.replace(_PATIENT, patient)
        if not place.is_file():
            raise InputError(f"its label map {place} is missing; correct labels, or take the patient out")
    labels_ZYX = None if place is None else read_labels(place, volume)
    truth = truth_of(volume, labels_ZYX, each.structures, leave_out=leave_out)
    facts = {**each.facts, "plane": volume.plane}
    return AskedScan(
        name=name,
        patient=patient,
        split=split,
        volume=scan,
        labels=place,
        truth=truth,
        facts=facts,
        views=tuple(draw_views(truth, rng, settings)),
        rng=rng,
    )


def draw_views(truth: ScanTruth, rng: Generator, settings: MaskSettings) -> Iterator[View]:
    """The whole frame, ranges from an eighth to two thirds of it (at least 8 slices, short ones as often as long ones),
    and ranges of one half.
    """
    first, last = truth.frame
    total = last - first + 1
    yield View(first=first, last=last)
    has_sides = any(structure.side for structure in truth.structures.values())
    num_ranges = settings.ranges if truth.structures else max(1, settings.ranges // 4)
    for number in range(num_ranges + (settings.halves if has_sides else 0)):
        shortest, longest = min(total, max(8, total // 8)), min(total, max(8, 2 * total // 3))
        length = round(float(np.exp(rng.uniform(np.log(shortest), np.log(longest)))))
        start = first + int(rng.integers(total - length + 1))
        side: Side | None = None if number < num_ranges else SIDES[number % 2]
        yield View(first=start, last=start + length - 1, side=side)


def _case(scan: AskedScan, number: int, conversations: tuple[Conversation, ...]) -> Case:
    view, truth = scan.views[number], scan.truth
    first, *_, last = truth.source((view.first, view.last)) * 2
    return Case(
        id=f"{scan.name}#{number}",
        split=scan.split,
        patient=scan.patient,
        source=SOURCE,
        volume=str(scan.volume),
        labels=None if scan.labels is None else str(scan.labels),
        reading=Reading(slices=(first, last), side=view.side),
        conversations=conversations,
        truth={
            "kind": SOURCE,
            "structures": {name: structure.label for name, structure in truth.structures.items()},
            "unknown": {name: ranges for name in truth.structures if (ranges := truth.unknown_slices(name))},
            "facts": scan.facts,
            "synonyms": {
                name: list(structure.words) for name, structure in truth.structures.items() if structure.words
            },
        },
    )


def _scans(root: Path, pattern: str) -> Iterator[tuple[str, Path]]:
    """(patient, scan) of everything that the pattern names."""
    parts = [re.escape(part).replace(r"\*", "[^/]*") for part in pattern.split(_PATIENT)]
    rule = re.compile("(?P<patient>[^/]+)".join([parts[0], "".join(parts[1:])]) if len(parts) == 2 else "$^")
    for path in root.glob(pattern.replace(_PATIENT, "*")):
        if matched := rule.fullmatch(path.relative_to(root).as_posix()):
            yield matched["patient"], path


def _listed_patients(file: Path, each: MaskSet) -> dict[str, tuple[Split | None, frozenset[str]]]:
    """Patient -> split and structures not to be trusted, by patients.csv."""
    listed: dict[str, tuple[Split | None, frozenset[str]]] = {}
    rows = csv.DictReader(read_text(file, name=file.name).splitlines())
    if "patient" not in (rows.fieldnames or ()):
        raise InputError(f"{file.name}: no column 'patient'; found {', '.join(rows.fieldnames or ()) or 'nothing'}")
    for row in rows:
        where, word = f"{file.name} line {rows.line_num}", (row.get("split") or "").strip()
        split = split_of(word)
        if word and split is None:
            raise InputError(f"{where}: split {word!r} is unknown; expected one of {', '.join(SPLITS)}")
        names = [name.strip() for name in (row.get("leave_out") or "").split(";") if name.strip()]
        if names == ["all"]:
            names = list(each.structures)
        if unknown := [name for name in names if name not in each.structures]:
            raise InputError(f"{where}: leave_out names {unknown[0]!r}; expected some of {', '.join(each.structures)}")
        if (patient := row["patient"].strip()) in listed:
            raise InputError(f"{where}: patient {patient!r} is listed twice; keep one line")
        listed[patient] = split, frozenset(names)
    return listed
