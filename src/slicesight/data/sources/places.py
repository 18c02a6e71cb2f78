"""Where on this disk is the scan that a table names?

M3D names a scan M3D_Cap_npy/ct_case/000017/Axial_Poschl.npy. On disk it may lie below another folder, still be the raw
folder M3D_Cap/ct_case/000017/Axial_Pöschl/ of pictures, or have its accents stored decomposed: the processed names are
the raw ones written in ASCII. So names are compared by their letters and digits.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from slicesight.data.manifest import Case, Conversation, Split
from slicesight.data.sources.intake import Intake, SourceLocation, SourceRequest

M3D_PARTS = ("ct_case", "ct_quizze")
M3D_FOLDERS = ("M3D_Cap_npy", "M3D_Cap")
_LETTERS_WITHOUT_PARTS = str.maketrans(
    {"ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "đ": "d", "ð": "d", "þ": "th", "ł": "l", "ı": "i", "ħ": "h", "ŋ": "ng"}
)


def folded(name: str) -> str:
    """Letters and digits of a name in ASCII: "axialposchl" for "Axial_Pöschl", however its accents are stored."""
    ascii_like = unicodedata.normalize("NFKD", name.casefold().translate(_LETTERS_WITHOUT_PARTS))
    return re.sub(r"[^a-z0-9]+", "", ascii_like)


class Places:
    """Looks a scan up below several folders; each folder is listed once."""

    def __init__(self, request: SourceRequest, *more: Path) -> None:
        roots = [request.volumes] if request.volumes else []
        self.roots = list(dict.fromkeys([*roots, request.base, *more]))
        self._listed: dict[Path, dict[str, list[Path]]] = {}

    def find(self, reference: str) -> Path | None:
        """The scan file or picture folder that a reference names; None where no folder holds it.

        An exact name wins; else the one name with the same letters and digits, a .npy before a folder.
        """
        candidates = list(self._candidates(reference))
        exact = (candidate for candidate in candidates if candidate.exists())
        alike = (found for candidate in candidates if (found := self._alike(candidate)))
        return next(exact, None) or next(alike, None)

    def text_beside(self, scan: str) -> Path | None:
        """The one .txt in the folder in which a scan's reference lies."""
        for candidate in self._candidates(scan):
            if candidate.parent.is_dir() and (text := only_text(candidate.parent)):
                return text
        return None

    def _candidates(self, reference: str) -> Iterable[Path]:
        parts = PurePosixPath(reference.replace("\\", "/")).parts
        tail = parts[next((i for i, part in enumerate(parts) if part in M3D_PARTS), 0) :]
        for root in self.roots:
            yield root.joinpath(*parts)
            if tail[0] in M3D_PARTS:
                yield root.joinpath(*tail)
                for folder in M3D_FOLDERS:
                    yield root.joinpath(folder, *tail)

    def _alike(self, candidate: Path) -> Path | None:
        found = self._listing(candidate.parent).get(folded(scan_stem(candidate.name)), [])
        chosen = [path for path in found if path.suffix == ".npy"] or found
        return chosen[0] if len(chosen) == 1 else None

    def _listing(self, folder: Path) -> dict[str, list[Path]]:
        if folder not in self._listed:
            named: dict[str, list[Path]] = {}
            for path in sorted(folder.iterdir()) if folder.is_dir() else ():
                if path.suffix == ".npy" or path.is_dir():
                    named.setdefault(folded(scan_stem(path.name)), []).append(path)
            self._listed[folder] = named
        return self._listed[folder]


class ListedScans:
    """The scans that the lines of a list name, each with what the lines ask: one case per scan and split."""

    def __init__(self, source: str, request: SourceRequest, intake: Intake) -> None:
        self.source, self.intake = source, intake
        self.places = Places(request, request.base.parent)
        self._ids: set[str] = set()
        self._paths: dict[str, Path | None] = {}
        self._cases: dict[tuple[Path, Split | None], Case] = {}
        self._asked: dict[tuple[Path, Split | None], list[Conversation]] = {}

    def add(
        self,
        reference: str,
        split: Split | None,
        conversations: Sequence[Conversation],
        where: SourceLocation,
        *,
        called: str | None = None,
    ) -> bool:
        """Add a line's questions about the scan it names; False where no folder holds that, which is refused.

        called: what the refusal calls the case, if not the scan's own name.
        """
        name = m3d_name(reference)
        if reference not in self._paths:
            self._paths[reference] = self.places.find(reference)
        path = self._paths[reference]
        if path is None:
            reason = f"{reference}: not found; name its folder with --volumes"
            self.intake.refuse("missing volume", reason, where, case_id=called or name)
            return False
        if (path, split) not in self._cases:
            case_id, patient = f"{name}@{split}" if name in self._ids else name, m3d_patient(name)
            self._ids.add(case_id)
            self._cases[path, split] = Case(
                id=case_id, volume=str(path), split=split, patient=patient, source=self.source, conversations=()
            )
            self._asked[path, split] = []
        self._asked[path, split] += conversations
        return True

    @property
    def cases(self) -> list[Case]:
        """In the order in which the lists first name them."""
        return [case.model_copy(update={"conversations": tuple(self._asked[key])}) for key, case in self._cases.items()]


def scan_stem(name: str) -> str:
    """A scan's name without .npy; any other dot ("Axial_1.5mm") belongs to the name."""
    return name.removesuffix(".npy")


def only_text(folder: Path) -> Path | None:
    """The folder's one .txt; None for none or several."""
    texts = [path for path in sorted(folder.iterdir()) if path.suffix.lower() == ".txt" and path.is_file()]
    return texts[0] if len(texts) == 1 else None


def m3d_name(reference: str) -> str:
    """What a case is called: "ct_case/000017/Axial" for "./M3D_Cap_npy/ct_case/000017/Axial.npy"."""
    parts = [part for part in PurePosixPath(reference.replace("\\", "/")).parts if part not in (".", "/")]
    start = next((i for i, part in enumerate(parts) if part in M3D_PARTS), 0)
    return "/".join((*parts[start:-1], scan_stem(parts[-1]))) if parts else ""


def m3d_patient(name: str) -> str | None:
    """The patient of a case: "ct_case/000017" for "ct_case/000017/Axial"; None for a name of another form."""
    parts = name.split("/")
    return "/".join(parts[:2]) if len(parts) >= 3 and parts[0] in M3D_PARTS else None
