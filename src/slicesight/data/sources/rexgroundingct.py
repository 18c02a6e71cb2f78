"""How does ReXGroundingCT become cases: each finding of a report, and the slices on which its mask lies?

Facts from its data card (https://huggingface.co/datasets/rajpurkarlab/ReXGroundingCT) and its challenge page
(https://rexrank.ai/ReXGroundingCT/challenge.html): dataset.json (2,992 train, 50 val, 100 hidden test) and
MICCAI_challenge_dataset.json (200 val with masks, 300 test without) hold {split: [{"name", "findings": {"0": text},
"categories": {"0": "2b"}, "shape": [H, W, D], "pixels": {"0": voxels}, ...}]}; segmentations/<name> is a 4D NIfTI
(F, H, W, D), one finding along F, in the voxels of CT-RATE's volume of that name (its "fixed" release). The splits are
its own: a validation scan may be one of CT-RATE's training patients.

What is asked is which slices show the finding; the true answer is their range in the file, and `source_slices` are all
of them, so that slice scores can be held against the mask. A finding without a mask has no truth and is left out.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np

from slicesight.data.manifest import SPLITS, Case, Conversation, Split
from slicesight.data.sources.collected import CollectedCases
from slicesight.data.sources.ct_rate import SOURCE as CT_RATE
from slicesight.data.sources.ct_rate import first_release_doubt, volume_stem, volumes_below
from slicesight.data.sources.intake import Intake, SourceLocation, SourceRequest, UnusableError
from slicesight.data.sources.tables import json_lists
from slicesight.errors import InputError

LISTS = ("dataset.json", "MICCAI_challenge_dataset.json")
CATEGORIES = {
    "1a": "bronchial wall thickening",
    "1b": "bronchiectasis",
    "1c": "emphysema",
    "1d": "septal thickening",
    "1e": "micronodules",
    "1f": "other non-focal",
    "2a": "linear opacity",
    "2b": "atelectasis, consolidation",
    "2c": "ground-glass opacity",
    "2d": "nodule, mass",
    "2e": "pleural effusion, thickening",
    "2f": "honeycombing",
    "2g": "pneumothorax",
    "2h": "other focal",
}
QUESTION = "Which slices show this finding: {}?"
NOTES = (
    "ReXGroundingCT is CC BY-NC-SA 4.0, and its scans are CT-RATE's",
    "ReXGroundingCT's splits are its own: its validation holds patients of CT-RATE's training split",
)


def read_rexgroundingct(request: SourceRequest, intake: Intake) -> list[Case]:
    """One case per scan whose masks are there, one question per finding."""
    listed = [request.source] if request.source.is_file() else [request.base / name for name in LISTS]
    listed = [path for path in listed if path.is_file()][:1]
    if not listed:
        raise InputError(f"{request.source}: neither {' nor '.join(LISTS)} in it; point at ReXGroundingCT's folder")
    masks = request.base / "segmentations"
    scans = volumes_below(request.volumes or request.base, leave_out=masks)
    collected = CollectedCases(source=CT_RATE, intake=intake)
    intake.notes += NOTES
    for key, line, item in json_lists(listed[0], only_lists=False):
        if key not in SPLITS or not request.wants(key):
            continue
        where = SourceLocation(request.name_of(listed[0]), line)
        try:
            entry = _checked(item)
        except UnusableError as reason:
            intake.refuse("bad entry", f"{reason}; correct it", where)
            continue
        _add(entry, key, masks / entry["name"], scans, collected, where)
    return collected.cases


def mask_slices(path: Path, scan: Path, entry: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Finding -> the slices (third stored axis, from 0) on which its mask has a voxel.

    Args:
        entry: as the list has it, with `shape` (H, W, D) and `pixels`, how many voxels each finding's mask has.

    Raises:
        UnusableError: a file is damaged, has another shape, or a mask another number of voxels than the list says.
    """
    import nibabel

    shape = tuple(entry["shape"])
    try:
        if (found := tuple(nibabel.load(scan).shape)) != shape:  # type: ignore[attr-defined]
            raise UnusableError(f"{scan.name} has the shape {found}, the list says {shape}")
        stored = nibabel.load(path)
        if len(found := tuple(stored.shape)) != 4 or found[1:] != shape:  # type: ignore[attr-defined]
            raise UnusableError(f"the mask {path.name} has the shape {found}, the list says (findings, {shape})")
        masks_FHWD = stored.dataobj.get_unscaled()  # type: ignore[attr-defined]
    except (OSError, EOFError, zlib.error, nibabel.filebasedimages.ImageFileError) as error:
        raise UnusableError(f"{path.name}: cannot be read ({' '.join(str(error).split())[:80]})") from None
    slices = {}
    for number in entry["findings"]:
        if int(number) >= len(masks_FHWD):
            raise UnusableError(f"{path.name} holds {len(masks_FHWD)} masks, the list names finding {number}")
        marked_HWD = masks_FHWD[int(number)] != 0
        counted, listed = int(marked_HWD.sum()), entry["pixels"].get(number)
        if listed is not None and counted != listed:
            raise UnusableError(
                f"{path.name}: the mask of finding {number} has {counted} voxels, the list says {listed}"
            )
        slices[number] = tuple(int(place) for place in np.flatnonzero(marked_HWD.any(axis=(0, 1))))
    return slices


def _add(
    entry: dict[str, Any],
    split: Split,
    mask: Path,
    scans: dict[str, Path],
    collected: CollectedCases,
    where: SourceLocation,
) -> None:
    intake, name = collected.intake, volume_stem(entry["name"])
    if not mask.is_file():
        intake.leave_out("no mask", "no segmentation released, so no slice is known to be right", where, case_id=name)
        return
    if (path := scans.get(name)) is None:
        reason = f"{entry['name']}: not found; name the folder of CT-RATE's train_fixed and valid_fixed with --volumes"
        intake.refuse("missing volume", reason, where, case_id=name)
        return
    if doubt := first_release_doubt(path):
        intake.refuse("raw volume", doubt, SourceLocation(path.name), case_id=name)
        return
    try:
        slices = mask_slices(mask, path, entry)
    except UnusableError as reason:
        intake.refuse("mask disagrees", f"{reason}; take both from one release", where, case_id=name)
        return
    asked = []
    for number, text in entry["findings"].items():
        if not slices.get(number):
            intake.leave_out("empty mask", f"finding {number} has no voxel", where, case_id=name)
            continue
        category = str(entry["categories"].get(number, "")).strip()
        asked.append(
            Conversation(
                id=f"{name}#{number}",
                task="open",
                topic=CATEGORIES.get(category, category or "uncategorised"),
                question=QUESTION.format(text.strip().rstrip(".")),
                answer=_range(slices[number]),
                source_slices=slices[number],
            )
        )
    if asked:
        collected.add(name, path, asked, where, split=split, patient="_".join(name.split("_")[:2]))


def _checked(item: Any) -> dict[str, Any]:
    """An entry whose parts are what the card says; raises UnusableError."""
    if not isinstance(item, dict) or not str(item.get("name") or "").endswith(".nii.gz"):
        raise UnusableError(f"found {str(item)[:60]!r}, expected an entry with name, findings, shape and pixels")
    name, findings, shape, pixels = (item.get(part) for part in ("name", "findings", "shape", "pixels"))
    if not isinstance(findings, dict) or not findings or not all(str(number).isdigit() for number in findings):
        raise UnusableError(f"{name}: findings are {str(findings)[:60]!r}, expected {{'0': text, ...}}")
    if not isinstance(shape, list) or len(shape) != 3:
        raise UnusableError(f"{name}: shape is {shape!r}, expected [H, W, D]")
    counts = pixels if isinstance(pixels, dict) else {}
    return {
        "name": name,
        "findings": {str(number): str(text) for number, text in findings.items()},
        "categories": item.get("categories") if isinstance(item.get("categories"), dict) else {},
        "shape": [int(size) for size in shape],
        "pixels": {str(number): int(count) for number, count in counts.items() if str(number) in findings},
    }


def _range(slices: tuple[int, ...]) -> str:
    first, last = slices[0], slices[-1]
    return f"slice {first}" if first == last else f"slices {first} to {last}"
