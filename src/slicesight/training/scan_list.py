"""Which scans does an insight verb train on and score, and how are they kept prepared, so that several runs share them?

A .jsonl, one scan a line, checked before anything is loaded:

    {"image": "scans/a.nii.gz", "mask": "masks/a.nii.gz", "label": "benign", "patient": "p7", "split": "train"}

Paths are relative to the .jsonl; `mask` is for segmentation, `label` for classification. A patient lies in one split.
`fill`, "LOWEST" or a number, takes the place of NaN in the image; without it NaN is refused. `drawn` says which
structures somebody looked for in the mask: their names, or names with this mask's own numbers ({"liver": 6}). What is
not named may be there all the same, so nothing is learnt or scored about it; without `drawn` every structure was drawn.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from slicesight.data.manifest import FillField
from slicesight.errors import ManifestError
from slicesight.files import replacing, write_text
from slicesight.io.assemble import Fill
from slicesight.io.loading import read_volume
from slicesight.io.masks import read_labels
from slicesight.models.med3dinsight.preparation import Preparation, prepare_mask, prepare_scan
from slicesight.models.med3dinsight.trained_on import scan_facts
from slicesight.settings import nearest
from slicesight.training.fitting import Progress

log = logging.getLogger(__name__)
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, Split, Split] = ("train", "val", "test")


def _drawn(value: Any) -> Any:
    names = list(value) if isinstance(value, list | dict) else None
    numbers = list(value.values()) if isinstance(value, dict) else []
    is_right = names is not None and all(isinstance(name, str) and name for name in names)
    if value is not None and not (is_right and all(type(number) is int and number > 0 for number in numbers)):
        raise ValueError('expected names of structures, ["liver"], or with the mask\'s numbers, {"liver": 6}')
    return value


Drawn = Annotated[list[str] | dict[str, int] | None, BeforeValidator(_drawn)]


class _Line(BaseModel):
    """One line as it is written."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    image: str = Field(min_length=1)
    mask: str | None = None
    label: str | int | None = None
    patient: str | int
    split: Split = "train"
    fill: FillField = None
    drawn: Drawn = None


@dataclass(frozen=True, kw_only=True)
class ScanCase:
    """One scan: where it and its mask lie, its class, whose it is, and what it is for.

    line: its number in the .jsonl, from 1. name: short, unique and fit for a file's name. fill: in place of NaN.
    drawn: the structures looked for in the mask, each with its own number there, or None for the run's number; None for
    all structures.
    """

    image: Path
    mask: Path | None
    label: str | None
    patient: str
    split: Split
    line: int
    name: str
    fill: Fill | None = None
    drawn: Mapping[str, int | None] | None = None

    @property
    def has_own_numbers(self) -> bool:
        """Whether the line gives the mask's numbers itself."""
        return self.drawn is not None and any(value is not None for value in self.drawn.values())

    def values(self, labels: Mapping[str, int]) -> tuple[int | None, ...]:
        """What the mask says for each structure of a run, in its order; None for those nobody drew.

        Raises:
            ManifestError: the line names a structure that the run does not have.
        """
        if self.drawn is None:
            return tuple(labels.values())
        for name in self.drawn:
            if name not in labels:
                hint = nearest(name, labels, noun="labels")
                raise ManifestError(f"line {self.line}: drawn names {name!r}, which the recipe's labels lack; {hint}")
        own = {name: labels[name] if value is None else value for name, value in self.drawn.items()}
        if len(set(own.values())) < len(own):
            raise ManifestError(f"line {self.line}: drawn gives two structures one number in {own}; expected one each")
        return tuple(own.get(name) for name in labels)


def read_cases(
    path: str | Path, *, needs: Literal["mask", "label"] | None = None, root: str | Path | None = None
) -> list[ScanCase]:
    """All cases of a .jsonl, in its order.

    Args:
        needs: what every line must have. root: the folder that its paths start from; None is the .jsonl's own.

    Raises:
        ManifestError: one line that names the first bad line, or a patient who is in two splits.
    """
    place = Path(path)
    if not place.is_file():
        raise ManifestError(f"{place}: no such file; expected a .jsonl with one scan a line")
    try:
        lines = place.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise ManifestError(f"{place.name}: not UTF-8 text; expected a .jsonl with one scan a line") from None
    start = place.parent if root is None else Path(root)
    cases = [_case(line, n, place, start, needs=needs) for n, line in enumerate(lines, start=1) if line.strip()]
    if not cases:
        raise ManifestError(f"{place.name}: no scans found; expected one JSON object a line")
    first: dict[str, ScanCase] = {}
    for case in cases:
        before = first.setdefault(case.patient, case)
        if before.split != case.split:
            raise ManifestError(
                f"{place.name} line {case.line}: this patient is in {case.split} here and in {before.split} on line "
                f"{before.line}; put all scans of a patient into one split"
            )
    return cases


def of_split(cases: list[ScanCase], split: Split, *, path: str | Path) -> list[ScanCase]:
    """The cases of one split, which must not be empty."""
    chosen = [case for case in cases if case.split == split]
    if not chosen:
        found = ", ".join(sorted({case.split for case in cases}))
        raise ManifestError(
            f"{Path(path).name}: no scan has the split {split!r} (found: {found}); set it on some lines"
        )
    return chosen


def part_of_patients(cases: list[ScanCase], share: float, *, seed: int = 0) -> list[ScanCase]:
    """The scans of a share of the patients, at least one; a smaller share is a part of every larger one.

    Patients are ordered by a digest of seed and name, so that the choice depends on nothing else.
    """

    def place(patient: str) -> str:
        return hashlib.sha256(f"{seed} {patient}".encode()).hexdigest()

    order = sorted({case.patient for case in cases}, key=place)
    chosen = set(order[: max(1, round(share * len(order)))])
    return [case for case in cases if case.patient in chosen]


def _case(line: str, number: int, place: Path, root: Path, *, needs: str | None) -> ScanCase:
    where = f"{place.name} line {number}"
    try:
        found = _Line.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ManifestError(f"{where}: {key + ': ' if key else ''}{first['msg']}") from None
    if needs is not None and getattr(found, needs) is None:
        raise ManifestError(f"{where}: {needs} is missing; this verb needs one on every line")
    image = root / found.image
    mask = None if found.mask is None else root / found.mask
    for key, file in (("image", image), ("mask", mask)):
        if file is not None and not file.exists():
            raise ManifestError(f"{where}: {key}: no such file {file}; paths are relative to {root}")
    return ScanCase(
        image=image,
        mask=mask,
        label=None if found.label is None else str(found.label),
        patient=str(found.patient),
        split=found.split,
        line=number,
        name=name_of(number, image),
        fill=found.fill,
        drawn=dict.fromkeys(found.drawn) if isinstance(found.drawn, list) else found.drawn,
    )


def name_of(number: int, image: Path) -> str:
    """A scan's short name, fit for a file."""
    stem = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in image.name.split(".")[0])
    return f"{number:05d}-{stem[:40]}"


class ScanDataset:
    """Prepared scans and masks as files that are mapped, not loaded: made once, found again by later runs.

    Names of files are digests of the preparation, the label values and the source files' place, size and time.
    """

    def __init__(
        self, folder: Path, how: Preparation, *, image_size: Sequence[int], labels: Mapping[str, int] | None = None
    ) -> None:
        self.folder, self.how, self.image_size, self.labels = folder, how, tuple(image_size), dict(labels or {})
        self.unnamed: dict[str, list[int]] = {}

    def prepare(self, case: ScanCase) -> None:
        """Write a case's files unless they are there."""
        voxels_file, mask_file = self._files(case)
        if voxels_file.exists() and (mask_file is None or mask_file.exists()):
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        volume = read_volume(case.image, fill=case.fill)
        scan = prepare_scan(volume, self.how, image_size=self.image_size, name=case.image.name)
        if mask_file is not None:
            assert case.mask is not None
            labels, values = read_labels(case.mask, volume), case.values(self.labels)
            named = {0, *values, *(self.labels.values() if not case.has_own_numbers else ())}
            if others := sorted(set(np.unique(labels).tolist()) - named):
                self.unnamed[case.mask.name] = others
            classes = prepare_mask(labels, box=scan.box, size=scan.voxels.shape, values=values)
            save_array(mask_file, classes)
        write_text(voxels_file.with_suffix(".json"), text=json.dumps(scan_facts(volume)) + "\n")
        save_array(voxels_file, np.rint(scan.voxels * 255).astype(np.uint8))

    def facts(self, case: ScanCase) -> dict[str, Any]:
        """What the model folder has to know of a scan it learnt from; kept beside the prepared scan."""
        file = self._files(case)[0].with_suffix(".json")
        if not file.exists():
            write_text(file, text=json.dumps(scan_facts(read_volume(case.image, fill=case.fill))) + "\n")
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return found

    def load(self, case: ScanCase) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
        """Grey values 0 to 255 and class numbers, mapped from disk."""
        voxels_file, mask_file = self._files(case)
        mask = None if mask_file is None else np.load(mask_file, mmap_mode="r", allow_pickle=False)
        return np.load(voxels_file, mmap_mode="r", allow_pickle=False), mask

    def prepare_all(self, cases: Sequence[ScanCase], progress: Progress | None = None) -> None:
        """Write every case's files."""
        for number, case in enumerate(cases, start=1):
            self.prepare(case)
            if progress is not None:
                progress("preparing scans", number, len(cases))
        if self.unnamed:
            first, values = next(iter(self.unnamed.items()))
            log.warning(
                "%d of the masks hold numbers that labels does not name, taken for background: %s in %s%s",
                len(self.unnamed),
                ", ".join(map(str, values[:8])),
                first,
                " and others" if len(self.unnamed) > 1 else "",
            )

    def _files(self, case: ScanCase) -> tuple[Path, Path | None]:
        size = [] if self.how.spacing_mm is not None else list(self.image_size)
        filled = [] if case.fill is None else [case.fill]
        scan = _digest([self.how.to_dict(), size, _facts(case.image), *filled])
        if case.mask is None or not self.labels:
            return self.folder / f"{scan}.npy", None
        return (
            self.folder / f"{scan}.npy",
            self.folder / f"{_digest([scan, case.values(self.labels), _facts(case.mask)])}.npy",
        )


def save_array(path: Path, values: NDArray[np.uint8]) -> None:
    """Write an array that `np.load` maps, under a temporary name until it is whole."""
    with replacing(path) as temporary:
        np.save(temporary, values, allow_pickle=False)


def _facts(path: Path) -> list[Any]:
    found = path.stat()
    return [str(path.resolve()), found.st_size, found.st_mtime_ns]


def _digest(facts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]
