"""How does a folder of synthetic scans with known truth come about, ready to train on, to ask and to score?

DIR/manifest.jsonl, DIR/volumes/phantom_00000.nii.gz (or a DICOM folder of that name), DIR/labels/phantom_00000.nii.gz:
organs by `anatomy.LABEL_NAMES`, finding number k painted over them as 100 + k.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from slicesight.data.manifest import Case, write_manifest
from slicesight.errors import InputError
from slicesight.files import plain_disk_errors
from slicesight.io.writers import write_dicom, write_nifti
from slicesight.phantoms.anatomy import LABEL_NAMES, PhantomTruth
from slicesight.phantoms.rendering import Phantom, make_phantom
from slicesight.phantoms.texts import conversation_rng, phantom_conversations

FINDING_LABEL_OFFSET = 100
ScanFormat = Literal["nifti", "dicom"]
Progress = Callable[[int, int], None]


def write_phantoms(
    folder: Path, *, count: int, seed: int, scan_format: ScanFormat = "nifti", progress: Progress | None = None
) -> Path:
    """Write `count` phantoms and, when all are there, the manifest; returns the manifest's path.

    Raises:
        InputError: the folder holds a manifest already, or cannot be made.
    """
    manifest = folder / "manifest.jsonl"
    if manifest.exists():
        raise InputError(f"{manifest} exists already; name a new folder, or remove it first.")
    for place in (folder / "volumes", folder / "labels"):
        with plain_disk_errors(place):
            place.mkdir(parents=True, exist_ok=True)
    cases = []
    for index in range(count):
        cases.append(write_phantom(folder, seed=seed, index=index, scan_format=scan_format))
        if progress is not None:
            progress(index + 1, count)
    write_manifest(cases, manifest)
    return manifest


def write_phantom(folder: Path, *, seed: int, index: int, scan_format: ScanFormat = "nifti") -> Case:
    """Write phantom number `index` into an existing folder and say what it is."""
    phantom = make_phantom(seed, index)
    name = f"phantom_{index:05d}"
    volume = f"volumes/{name}" + (".nii.gz" if scan_format == "nifti" else "")
    labels = f"labels/{name}.nii.gz"
    (write_nifti if scan_format == "nifti" else write_dicom)(phantom.volume, folder / volume)
    write_nifti(phantom.volume, folder / labels, labels=label_map(phantom))
    return phantom_case(phantom, seed=seed, index=index, volume=volume, labels=labels)


def phantom_case(phantom: Phantom, *, seed: int, index: int, volume: str, labels: str | None = None) -> Case:
    """The manifest line of a phantom: its eleven pairs and its truth."""
    num_slices = phantom.volume.num_source_slices
    return truth_case(phantom.truth, num_slices=num_slices, seed=seed, index=index, volume=volume, labels=labels)


def truth_case(
    truth: PhantomTruth, *, num_slices: int, seed: int, index: int, volume: str, labels: str | None = None
) -> Case:
    """As `phantom_case`, without painting it. num_slices: of the scan's file."""
    names = {str(label): name for label, name in LABEL_NAMES.items()}
    for label, finding in enumerate(truth.findings, start=FINDING_LABEL_OFFSET + 1):
        names[str(label)] = f"{finding.abnormality} in the {finding.organ}"
    return Case(
        id=f"phantom_{seed}_{index:05d}",
        volume=volume,
        labels=labels,
        conversations=phantom_conversations(truth, conversation_rng(seed, index), num_slices=num_slices),
        truth={**asdict(truth), "label_names": names},
    )


def label_map(phantom: Phantom) -> NDArray[np.uint8]:
    """Organs and, painted over them, findings as one ZYX map."""
    findings = phantom.lesion_labels
    over = findings.astype(np.uint8) + np.uint8(FINDING_LABEL_OFFSET)
    return np.where(findings > 0, over, phantom.organ_labels).astype(np.uint8)
