"""Which file does an agent mean, and may it be opened? Only below the roots, wherever links and dots would lead.

A name is resolved with every link in it before it is compared, and so is every further file that a reader would open
for it: a folder's, and what a text header names. What lies outside is refused in the same words whether it is there
or not. The process that reads is shut in to the roots once more by the kernel, where that can be had, so that a link
put in place between this check and the reading leads nowhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from slicesight.data.fingerprints import scan_files
from slicesight.errors import InputError
from slicesight.io.dicomweb.address import is_address
from slicesight.io.files import one_line

MAX_NAME = 4096
SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".npy", ".dcm", ".zip", ".hdr", ".parquet")
"""Of files that are listed; any other may be named all the same."""
SLICE_SUFFIXES = (".dcm", ".png", ".jpg", ".jpeg", "")
MAX_LOOKED_AT = 20_000


@dataclass(frozen=True)
class ListedScan:
    """A file, or a folder of slices, as a tool is told of it."""

    name: str
    kind: str
    num_files: int
    num_bytes: int


class Roots:
    """The folders below which files may be opened.

    Args:
        folders: existing ones; resolved once, so that a link moved later changes nothing.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.places = tuple(dict.fromkeys(folder.resolve(strict=True) for folder in folders))

    @cached_property
    def names(self) -> dict[str, Path]:
        """What each root is called in names: its folder's name, numbered where two are called the same."""
        found: dict[str, Path] = {}
        for place in self.places:
            name, number = place.name or "root", 2
            while name in found:
                name, number = f"{place.name}-{number}", number + 1
            found[name] = place
        return found

    def find(self, name: str) -> Path:
        """The resolved path of a file or folder, given below a root, with a root's name in front, or absolute.

        Raises:
            InputError: outside the roots, not there, in two of them, or nothing that can be a name.
        """
        shown = one_line(name)[:200]
        if not name or len(name) > MAX_NAME or "\0" in name:
            raise InputError(f"{shown!r} is no file's name; list_scans says what there is")
        if is_address(name):
            raise InputError(f"{shown}: this server reads files, no archives; list_scans says what there is")
        inside = list(dict.fromkeys(place for place in self._candidates(name) if self.holds(place)))
        there = [place for place in inside if _is_there(place)]
        if len(there) > 1:
            listed = ", ".join(map(self.name_of, there))
            raise InputError(f"{shown}: is in {len(there)} roots; say which: {listed}")
        if not inside:
            raise InputError(
                f"{shown}: lies outside the folders that may be read ({', '.join(self.names)}); list_scans says what "
                "there is"
            )
        if not there:
            raise InputError(f"{shown}: no such file or folder; list_scans says what there is")
        if not (there[0].is_file() or there[0].is_dir()):
            raise InputError(f"{shown}: is a device or pipe; expected a file or a folder")
        return there[0]

    def scan(self, name: str, *, max_bytes: int) -> Path:
        """As `find`, with every file that a reader would open for it inside the roots too, and not too large.

        Raises:
            InputError: one of them leads outside, cannot be looked at, or all are larger than `max_bytes`.
        """
        place = self.find(name)
        try:
            files = scan_files(place)
            total = sum(file.stat().st_size for file in files)
            away = [file for file in files if not self.holds(file.resolve())]
        except (OSError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or "a link that leads nowhere"
            raise InputError(f"{self.name_of(place)}: cannot be looked at ({reason}); check the files") from None
        if away:
            raise InputError(
                f"{self.name_of(place)}: {one_line(away[0].name)} leads outside the folders that may be read; put the "
                "file itself there"
            )
        if total > max_bytes:
            raise InputError(
                f"{self.name_of(place)}: {total / 1e9:.2f} GB in {len(files)} files, more than the "
                f"{max_bytes / 1e9:.2f} GB that one scan may have here; name one series, or start the server with a "
                "larger --max-scan"
            )
        return place

    def holds(self, place: Path) -> bool:
        """Whether a resolved path is a root or lies below one."""
        return any(place == root or root in place.parents for root in self.places)

    def name_of(self, place: Path) -> str:
        """What tools call it: the path below the root, the root's name in front where there are several."""
        name, root = next((name, root) for name, root in self.names.items() if place == root or root in place.parents)
        below = place.relative_to(root).as_posix()
        if len(self.names) == 1:
            return below
        return name if below == "." else f"{name}/{below}"

    def listed(self, place: Path, *, count: int) -> tuple[list[ListedScan], bool]:
        """What below this folder looks like a scan by its name, a folder of slices as one -> (the first, whether all).

        Links are not followed.
        """
        found: list[ListedScan] = []
        for one in self._listed(place):
            if one is None or len(found) == count:
                return found, False
            found.append(one)
        return found, True

    def _listed(self, place: Path) -> Iterator[ListedScan | None]:
        """None where it gives up."""
        num_seen = 0
        for folder, subfolders, files in os.walk(place, followlinks=False):
            subfolders[:] = sorted(name for name in subfolders if not name.startswith((".", "__MACOSX")))
            slices: list[int] = []
            for name in sorted(files):
                num_seen += 1
                if num_seen > MAX_LOOKED_AT:
                    yield None
                file = Path(folder) / name
                suffix = next((end for end in SUFFIXES if name.lower().endswith(end)), None)
                if name.startswith(".") or file.is_symlink() or not file.is_file():
                    continue
                if file.suffix.lower() in SLICE_SUFFIXES:
                    slices.append(file.stat().st_size)
                elif suffix is not None:
                    kind = "table of vectors" if suffix == ".parquet" else suffix.removeprefix(".")
                    yield ListedScan(self.name_of(file), kind, 1, file.stat().st_size)
            if len(slices) > 1:
                yield ListedScan(self.name_of(Path(folder)), "folder of slices", len(slices), sum(slices))

    def _candidates(self, name: str) -> Iterator[Path]:
        """Where the name may lead, links and dots resolved."""
        given = Path(name)
        first, _, rest = name.partition("/")
        places = [given] if given.is_absolute() else [root / given for root in self.places]
        if first in self.names:
            places.append(self.names[first] / rest)
        for place in places:
            try:
                yield place.resolve()
            except (OSError, RuntimeError, ValueError):  # a loop of links, a name too long
                continue


def _is_there(place: Path) -> bool:
    try:
        return place.exists()
    except OSError:  # no permission, or a name longer than the system allows
        return False
