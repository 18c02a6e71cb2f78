"""What can a model be trained on? Volumes, what is asked about them and, where known, where it shows.

Two kinds stand behind one protocol: synthetic phantoms, asked anew in every pass, and prepared scans with the texts of
their manifest. N slices, H rows, W columns.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from slicesight.data.manifest import Conversation
from slicesight.errors import InputError
from slicesight.phantoms.grid_set import PhantomSet
from slicesight.phantoms.texts import TOPICS, conversation_rng, phantom_conversations
from slicesight.volumes.grid import GridSpec

if TYPE_CHECKING:
    from slicesight.data.store import PreparedVolumes

PHANTOM_TASKS = ("report", *("open" for _ in TOPICS), *("closed" for _ in TOPICS))


class TrainingDataset(Protocol):
    """Cases by number. A pass ("epoch") may ask other questions, but of the same tasks in the same order.

    asks_anew: whether it does.
    """

    asks_anew: bool

    def __len__(self) -> int: ...

    def name(self, case: int) -> str:
        """The case's id, for messages."""
        ...

    def tasks(self, case: int) -> Sequence[str]:
        """The task of every question, in the order of `conversations`."""
        ...

    def conversations(self, case: int, epoch: int) -> Sequence[Conversation]:
        """What is asked about a case in one pass."""
        ...

    def voxels(self, case: int) -> NDArray[np.float32]:
        """(N, H, W) in [0, 1]."""
        ...

    def true_slices(self, case: int, conversation: Conversation) -> NDArray[np.bool_]:
        """Grid slices that show what one question is about -> (N,); none marked where nobody knows or all show it."""
        ...

    def plane(self, case: int) -> str | None:
        """How the slices are stacked, None where the file does not say which way they lie."""
        ...

    def fingerprint(self, case: int) -> str:
        """Changes with the case's voxels."""
        ...

    @property
    def preparation(self) -> str:
        """Changes with the way any scan becomes a grid."""
        ...


class PhantomDataset:
    """Phantoms, whose eleven questions are worded anew in every pass."""

    asks_anew = True

    def __init__(self, phantoms: PhantomSet, *, seed: int) -> None:
        self.phantoms, self.seed = phantoms, seed

    def __len__(self) -> int:
        return len(self.phantoms)

    def name(self, case: int) -> str:
        return f"phantom_{self.phantoms.seed}_{case:05d}"

    def tasks(self, case: int) -> Sequence[str]:
        return PHANTOM_TASKS

    def conversations(self, case: int, epoch: int) -> Sequence[Conversation]:
        phantoms = self.phantoms
        rng = conversation_rng(phantoms.seed, case, 1 + epoch + 1000 * self.seed)
        return phantom_conversations(phantoms.truths[case], rng, num_slices=phantoms.num_source_slices[case])

    def voxels(self, case: int) -> NDArray[np.float32]:
        return to_float(self.phantoms.voxels[case])

    def true_slices(self, case: int, conversation: Conversation) -> NDArray[np.bool_]:
        findings = self.phantoms.findings[case]
        shown = np.zeros(findings.shape[0], dtype=bool)
        if conversation.topic in ("organ", "abnormality", "location"):
            for number, finding in enumerate(self.phantoms.truths[case].findings, start=1):
                if finding.abnormality in conversation.question or finding.organ in conversation.question:
                    pixels = np.count_nonzero(findings == number, axis=(1, 2))
                    shown |= pixels > 0.3 * pixels.max()
        return shown

    def plane(self, case: int) -> str | None:
        plane = self.phantoms.grid.plane
        return self.phantoms.truths[case].plane if plane == "acquired" else plane

    def fingerprint(self, case: int) -> str:
        return digest_of(np.ascontiguousarray(self.phantoms.voxels[case]).tobytes())

    @property
    def preparation(self) -> str:
        made_with = {word: value for word, value in self.phantoms.settings.items() if word != "count"}
        return digest_of(json.dumps(made_with, sort_keys=True).encode())


class PreparedDataset:
    """The cases of one split of a prepared folder; a pass asks what its manifest says."""

    asks_anew = False

    def __init__(self, prepared: PreparedVolumes, *, split: str | None) -> None:
        if "+" in prepared.spec.window:
            raise InputError(
                f"{prepared.folder}: prepared with the windows {prepared.spec.window}, but a model reads one channel; "
                f"prepare it again with one window"
            )
        self.prepared = prepared
        self.cases = [case for case in prepared.cases if split is None or case.split == split]
        if not self.cases:
            found = sorted({str(case.split) for case in prepared.cases})
            raise InputError(
                f"{prepared.folder}: no case is of split {split!r}; its splits are {', '.join(found)} "
                f"(data.split: null takes all)"
            )

    def __len__(self) -> int:
        return len(self.cases)

    def name(self, case: int) -> str:
        return self.cases[case].id

    def tasks(self, case: int) -> Sequence[str]:
        return [conversation.task for conversation in self.cases[case].conversations]

    def conversations(self, case: int, epoch: int) -> Sequence[Conversation]:
        return self.cases[case].conversations

    def voxels(self, case: int) -> NDArray[np.float32]:
        return to_float(self.prepared.voxels(self.cases[case].id))

    def true_slices(self, case: int, conversation: Conversation) -> NDArray[np.bool_]:
        if conversation.source_slices is None:
            return np.zeros(self.prepared.spec.num_slices, dtype=bool)
        asked = set(conversation.source_slices)
        shown = np.array([not asked.isdisjoint(source) for source in self.prepared.source_slices(self.cases[case].id)])
        return shown & ~shown.all()

    def plane(self, case: int) -> str | None:
        receipt = self.prepared.receipt(self.cases[case].id)
        return receipt["grid"]["plane"] if receipt["has_positions"] else None

    def fingerprint(self, case: int) -> str:
        return digest_of(self.prepared.content(self.cases[case].id).encode(), self.preparation.encode())

    @property
    def preparation(self) -> str:
        settings = {**self.prepared.spec.to_dict(), "dtype": self.prepared.dtype}
        return digest_of(json.dumps(settings, sort_keys=True).encode())


def open_prepared_scans(folder: str, *, split: str | None, grid: GridSpec | None) -> PreparedDataset:
    """The prepared scans that a recipe names.

    Raises:
        InputError: nothing is prepared there, the split is empty, or the recipe's grid is another.
    """
    from slicesight.data.store import open_prepared  # needs pyarrow, which phantoms do not

    prepared = open_prepared(folder)
    if grid is not None and grid != prepared.spec:
        raise InputError(
            f"{folder}: prepared as {prepared.spec.to_dict()}, the recipe's grid is {grid.to_dict()}; "
            f"leave grid out of the recipe, or prepare the scans again"
        )
    return PreparedDataset(prepared, split=split)


def to_float(stored: NDArray[np.uint8] | NDArray[np.float16]) -> NDArray[np.float32]:
    """Stored voxels as the [0, 1] the model reads: uint8 255 and float16 1.0 are white."""
    if stored.dtype == np.uint8:
        return stored.astype(np.float32) / np.float32(255)
    return stored.astype(np.float32)


def digest_of(*pieces: bytes) -> str:
    """SHA-256 of the pieces, in hexadecimal."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(len(piece).to_bytes(8, "little") + piece)
    return digest.hexdigest()
