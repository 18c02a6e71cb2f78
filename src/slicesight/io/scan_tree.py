"""Which scans lie in a folder and everything below it, whatever their formats and names?

A scan is a NIfTI, NRRD, MetaImage, .npy or zip file, a folder of PNG or JPEG slices, or a DICOM series: its files are
found by their SeriesInstanceUID, so that several series may lie in one folder and one series in several. Where the same
images lie in two folders, each folder is a scan of its own. What is called like a scan and holds none, and what cannot
be read, is given with the reason, so that nothing is passed over in silence.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from slicesight.errors import InputError, VolumeError
from slicesight.io.arrays import is_npy, is_picture
from slicesight.io.assemble import ReadOptions
from slicesight.io.dicom.loading import is_dicom, is_dicomdir
from slicesight.io.dicom.series import ImageFacts, image_facts
from slicesight.io.files import files_below, head_of, is_zip
from slicesight.io.itk import is_metaimage, is_nrrd
from slicesight.io.loading import read_series, read_volume
from slicesight.io.nifti import is_nifti
from slicesight.volumes.volume import Volume

SCAN_ENDINGS = (".nii.gz", ".nii", ".hdr.gz", ".hdr", ".nrrd", ".nhdr", ".mha", ".mhd", ".npy", ".zip", ".dcm")
TEXT_ENDINGS = (".txt", ".json", ".csv", ".jsonl")
_PAIR_SUFFIXES = (".hdr", ".hdr.gz", ".img", ".img.gz")
_DATA_FILE_KEYS = ("elementdatafile", "data file", "datafile")
_MAX_HEADER_BYTES = 1 << 20
UNFINISHED_ENDINGS = (".part", ".partial", ".tmp", ".crdownload", ".filepart", ".download")
"""Of files that another program is still writing, and renames when they are whole."""
FileKind = Literal["scan", "dicom", "picture", "named", "other"]
"""What a file is by its content: "named" is called like a scan and holds none."""


@dataclass
class FolderFiles:
    """What lies right in one folder."""

    scans: list[Path] = field(default_factory=list)
    dicom: list[Path] = field(default_factory=list)
    pictures: list[Path] = field(default_factory=list)
    named: list[Path] = field(default_factory=list)
    texts: list[Path] = field(default_factory=list)
    unreadable: dict[Path, str] = field(default_factory=dict)

    @property
    def is_slices(self) -> bool:
        """Whether the folder itself is a scan, of DICOM files or of pictures."""
        return bool(self.dicom) or (len(self.pictures) > 1 and not self.scans)


@dataclass(frozen=True, kw_only=True)
class FoundScan:
    """A scan, or what should have been one.

    name: its path from the folder that was looked through, "." for that folder. series: its SeriesInstanceUID, empty
    for other formats. files: what holds it. stamp: changes when one of them may have changed. problem: why it is none.
    """

    name: str
    path: Path
    files: tuple[Path, ...]
    stamp: str
    series: str = ""
    notes: tuple[str, ...] = ()
    problem: str | None = None

    @property
    def key(self) -> tuple[str, str]:
        """What a person calls it: no other scan of the folder has the same."""
        return self.name, self.series

    def __str__(self) -> str:
        return f"{self.name}, series {self.series}" if self.series else self.name

    def has_changed(self) -> bool:
        """Whether a file is another one now, or still being written."""
        return stamp_of(self.files) != self.stamp

    def read(self, **options: Any) -> Volume:
        """The scan as a volume; arguments and errors as of `read_volume`."""
        if self.problem is not None:
            raise VolumeError(self.problem)
        if self.series:
            return read_series(self.files, ReadOptions(**options), name=self.path)
        return read_volume(self.path, **options)


@dataclass(frozen=True, kw_only=True)
class FoundScans:
    """What was found in a folder, in the order of the names; left_out: what was never meant to be a scan, counted."""

    scans: list[FoundScan]
    left_out: dict[str, int]


class ScanFinder:
    """Looks through a folder as often as wanted; a file that has not changed is not opened again.

    leave_out: folders that are passed over, such as the one the answers go to.
    """

    def __init__(self, base: Path, *, leave_out: Iterable[Path] = ()) -> None:
        self.base, self.leave_out = base, tuple(leave_out)
        self._known: dict[Path, tuple[tuple[int, int], FileKind, ImageFacts | str | tuple[Path, ...] | None]] = {}
        self._seen: set[Path] = set()

    def find(self) -> FoundScans:
        """Every scan that lies there now.

        Raises:
            InputError: the folder is not there.
        """
        if not self.base.is_dir():
            raise InputError(f"{self.base}: no such folder; expected a folder of scans")
        self._seen = set()
        folders = walk_folders(self.base, leave_out=self.leave_out, tell=self._kind)
        dicom, left_out, found = self._series(folders)
        for here, files in folders.items():
            found += [self._scan(file, self._parts(file)) for file in files.scans]
            found += [self._file(file, problem=why) for file, why in files.unreadable.items()]
            found += [self._file(file) for file in files.named]  # the reader says what is wrong with it
            if not files.dicom and files.is_slices:
                found.append(self._scan(here, files.pictures))
        self._known = {file: known for file, known in self._known.items() if file in self._seen}
        return FoundScans(scans=sorted([*dicom, *found], key=lambda scan: scan.key), left_out=left_out)

    def _series(self, folders: dict[Path, FolderFiles]) -> tuple[list[FoundScan], dict[str, int], list[FoundScan]]:
        """DICOM series, what else was DICOM, and files that are damaged."""
        members: dict[str, list[tuple[Path, ImageFacts]]] = defaultdict(list)
        left_out: dict[str, int] = defaultdict(int)
        damaged: list[FoundScan] = []
        for files in folders.values():
            for file in files.dicom:
                facts = self._facts(file)
                if isinstance(facts, str):
                    damaged.append(self._file(file, problem=facts))
                elif facts is None:
                    left_out["DICOM objects without images"] += 1
                else:
                    members[facts.series_uid].append((file, facts))
        stacks = {uid: found for uid, found in members.items() if not all(one.is_side_picture for _, one in found)}
        volumes = {uid: found for uid, found in stacks.items() if sum(one.num_images for _, one in found) > 1} or stacks
        if left := len(members) - len(volumes):
            left_out["DICOM series of a localizer, secondary captures or a single image"] += left
        bad_folders = {one.path.parent for one in damaged}
        scans = []
        for uid, found in volumes.items():
            for part in _copies(found):
                beside = {file.parent for file in part} & bad_folders
                note = "a DICOM file beside this series is damaged, and may have been a part of it"
                scans.append(self._scan(_common_folder(part), part, series=uid, notes=(note,) if beside else ()))
        return scans, dict(left_out), damaged

    def _facts(self, file: Path) -> ImageFacts | str | None:
        """Facts of an image, None of another object, or why it cannot be read."""
        size_and_time, kind, facts = self._known[file]
        if facts is None or isinstance(facts, tuple):
            try:
                facts = image_facts(file) or ""
            except (InputError, OSError) as error:
                facts = f"{file.name}: {error}"
            self._known[file] = (size_and_time, kind, facts)
        return None if facts == "" else facts

    def _parts(self, file: Path) -> tuple[Path, ...]:
        """The file with those its header names."""
        size_and_time, kind, parts = self._known[file]
        if not isinstance(parts, tuple):
            try:
                parts = tuple(scan_files(file))
            except OSError:
                parts = (file,)
            self._known[file] = size_and_time, kind, parts
        return parts

    def _kind(self, file: Path) -> FileKind:
        facts = file.stat()
        self._seen.add(file)
        known = self._known.get(file)
        if known is not None and known[0] == (facts.st_size, facts.st_mtime_ns):
            return known[1]
        kind = kind_of(file)
        self._known[file] = (facts.st_size, facts.st_mtime_ns), kind, None
        return kind

    def _file(self, file: Path, *, problem: str | None = None) -> FoundScan:
        return self._scan(file, [file], problem=problem)

    def _scan(
        self,
        path: Path,
        files: Sequence[Path],
        *,
        series: str = "",
        notes: tuple[str, ...] = (),
        problem: str | None = None,
    ) -> FoundScan:
        return FoundScan(
            name=path.relative_to(self.base).as_posix(),
            path=path,
            files=tuple(files),
            stamp=stamp_of(files),
            series=series,
            notes=notes,
            problem=problem,
        )


def stamp_of(files: Sequence[Path]) -> str:
    """Changes with names, sizes and times."""
    lines = []
    for file in files:
        try:
            facts = file.stat()
        except OSError:
            lines.append(f"{file}\tgone")
            continue
        lines.append(f"{file}\t{facts.st_size}\t{facts.st_mtime_ns}")
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def walk_folders(
    base: Path, *, leave_out: Iterable[Path] = (), tell: Callable[[Path], FileKind] | None = None
) -> dict[Path, FolderFiles]:
    """What every folder from `base` down holds, by content; hidden files and folders are passed over.

    tell: gives a file's kind; `kind_of` where it is left out.
    """
    tell = tell or kind_of
    left_out = {place.resolve() for place in leave_out}
    folders: dict[Path, FolderFiles] = {}
    for place, below, names in os.walk(base):
        here = Path(place)
        below[:] = sorted(
            name for name in below if not name.startswith((".", "__MACOSX")) and (here / name).resolve() not in left_out
        )
        found = folders[here] = FolderFiles()
        for path in (here / name for name in sorted(names)):
            ending = path.name.lower()
            if ending.startswith(".") or ending.endswith(UNFINISHED_ENDINGS) or not path.is_file():
                continue
            if ending.endswith(TEXT_ENDINGS):
                found.texts += [path] if ending.endswith((".txt", ".json")) else []
                continue
            try:
                kind = tell(path)
            except OSError as error:
                found.unreadable[path] = f"{path.name}: cannot be read ({error.strerror or error}); check permissions"
                continue
            for known, files in _lists_of(found):
                if kind == known:
                    files.append(path)
    return folders


def kind_of(file: Path) -> FileKind:
    """What a file is, by how it begins (OSError: it cannot be read)."""
    head = head_of(file)
    if is_dicom(head):
        return "other" if is_dicomdir(file, head) else "dicom"
    if is_picture(head):
        return "picture"
    if file.name.endswith((".img", ".img.gz")):
        return "other"  # the voxels of a .hdr
    if is_npy(head) or is_nrrd(head) or is_metaimage(head) or is_zip(head) or is_nifti(file, head):
        return "scan"
    return "named" if file.name.lower().endswith(SCAN_ENDINGS) else "other"


def _lists_of(found: FolderFiles) -> tuple[tuple[FileKind, list[Path]], ...]:
    return ("scan", found.scans), ("dicom", found.dicom), ("picture", found.pictures), ("named", found.named)


def _copies(found: list[tuple[Path, ImageFacts]]) -> list[list[Path]]:
    """The files of a series together, or by folder where an image lies in several folders."""
    folders_of: dict[str, set[Path]] = defaultdict(set)
    for file, facts in found:
        folders_of[facts.sop_uid].add(file.parent)
    if all(len(folders) == 1 for folders in folders_of.values()):
        return [[file for file, _ in found]]
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for file, _ in found:
        by_folder[file.parent].append(file)
    return list(by_folder.values())


def _common_folder(files: Sequence[Path]) -> Path:
    """The file itself, or the deepest folder that holds all."""
    return files[0] if len(files) == 1 else Path(os.path.commonpath([file.parent for file in files]))


def scan_files(path: Path) -> list[Path]:
    """The files that decide what `read_volume(path)` gives: the folder's, or the file with those its header names."""
    if path.is_dir():
        return files_below(path)
    head = head_of(path)
    if is_dicom(head):
        return files_below(path.parent) if is_dicomdir(path, head) else [path]
    if is_metaimage(head) or is_nrrd(head):
        return [path, *_named_beside(path)]
    stem = next((path.name.removesuffix(end) for end in _PAIR_SUFFIXES if path.name.endswith(end)), None)
    if stem is None:
        return [path]
    return sorted({path, *(place for end in _PAIR_SUFFIXES if (place := path.with_name(stem + end)).is_file())})


def _named_beside(header: Path) -> list[Path]:
    """The data file a text header names, where it lies beside the header."""
    with header.open("rb") as stream:
        lines = stream.read(_MAX_HEADER_BYTES).split(b"\n\n", 1)[0].splitlines()
    for line in lines:
        key, _, value = line.decode("latin-1").replace("=", ":", 1).partition(":")
        name = value.strip()
        if key.strip().lower() in _DATA_FILE_KEYS and name and Path(name).name == name:
            place = header.with_name(name)
            return [place] if place.is_file() else []
    return []
