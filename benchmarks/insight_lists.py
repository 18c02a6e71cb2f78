"""Make the .jsonl lists of the two public data sets that the insight experiments run on.

    python benchmarks/insight_lists.py sts STS_FOLDER --out runs/lists
    python benchmarks/insight_lists.py adrenal adrenalmnist3d_64.npz --out runs/lists --distance

STS (TCIA Soft-tissue-Sarcoma): STS_FOLDER/STS_001…034 with CT_image, CT_mask, MR_T1_image and MR_T1_mask (.nii.gz).
Patients 001–026 train, 027–034 test; sts.jsonl holds both modalities, sts-ct.jsonl and sts-mr.jsonl one each.
The share of labelled patients is the recipe's `train_share`.

AdrenalMNIST3D at 64³ (MedMNIST+): binary shapes of adrenal glands at 1 mm, official split, written as one NIfTI each.
With --distance a voxel holds the signed distance in mm to the shape's surface (inside positive) instead of 0 or 255:
the same shape, in a form whose grey values say how thick the gland is.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scipy.ndimage import distance_transform_edt

MODALITIES = {"ct": "CT", "mr": "MR_T1"}
LAST_TRAIN_PATIENT = 26
CLASSES = ("normal", "hyperplasia")
ADRENAL_SPLITS = ("train", "val", "test")
FARTHEST_MM = 12.0


def list_sts(folder: Path, out: Path) -> Path:
    """Write sts.jsonl, sts-ct.jsonl and sts-mr.jsonl; returns the first."""
    lines = {name: list(_sts_lines(folder, out, prefix)) for name, prefix in MODALITIES.items()}
    if not any(lines.values()):
        raise SystemExit(
            f"{folder}: no STS_*/CT_image.nii.gz or MR_T1_image.nii.gz there; name the folder of STS_001 …"
        )
    out.mkdir(parents=True, exist_ok=True)
    for name, members in lines.items():
        write_list(out / f"sts-{name}.jsonl", members)
    both = [line for members in lines.values() for line in members]
    return write_list(out / "sts.jsonl", both)


def _sts_lines(folder: Path, out: Path, prefix: str) -> Iterator[dict[str, Any]]:
    for image in sorted(folder.glob(f"STS_*/{prefix}_image.nii.gz")):
        patient = image.parent.name
        yield {
            "image": os.path.relpath(image, out),
            "mask": os.path.relpath(image.with_name(f"{prefix}_mask.nii.gz"), out),
            "patient": patient,
            "split": "train" if int(patient.removeprefix("STS_")) <= LAST_TRAIN_PATIENT else "test",
        }


def list_adrenal(archive: Path, out: Path, *, distance: bool, most: dict[str, int] | None = None) -> Path:
    """Write every shape as NIfTI below `out` and the list of them; returns the list.

    Args:
        most: of a split, only so many; for trials.
    """
    stem = f"adrenal-{'distance' if distance else 'shape'}"
    path = out / f"{stem}.jsonl"
    lines = []
    with np.load(archive, allow_pickle=False) as data:
        for split in ADRENAL_SPLITS:
            shapes, labels = data[f"{split}_images"], data[f"{split}_labels"][:, 0]
            (out / stem / split).mkdir(parents=True, exist_ok=True)
            for number, (shape, label) in enumerate(zip(shapes, labels, strict=True)):
                if most is not None and number >= most.get(split, len(shapes)):
                    break
                file = out / stem / split / f"{number:04d}.nii.gz"
                if not file.exists():
                    _write_shape(shape > 127, file, distance=distance)
                lines.append(
                    {
                        "image": os.path.relpath(file, out),
                        "label": CLASSES[int(label)],
                        "patient": f"{split}-{number:04d}",
                        "split": split,
                    }
                )
    return write_list(path, lines)


def signed_distance(shape_ZYX: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Millimetres to the surface, positive inside, within ±FARTHEST_MM; voxels are 1 mm."""
    inside = distance_transform_edt(np.pad(shape_ZYX, 1))[1:-1, 1:-1, 1:-1]
    outside = distance_transform_edt(~shape_ZYX) if shape_ZYX.any() else np.full(shape_ZYX.shape, FARTHEST_MM)
    return np.clip(inside - outside, -FARTHEST_MM, FARTHEST_MM).astype(np.float32)


def write_list(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    print(f"wrote {path}: {len(lines)} scans, {len({line['patient'] for line in lines})} patients")
    return path


def _write_shape(shape_ZYX: np.ndarray[Any, Any], file: Path, *, distance: bool) -> None:
    if distance:  # tenths of a millimetre as whole numbers, which pack well
        values = np.rint(signed_distance(shape_ZYX) * 10).astype(np.int16)
    else:
        values = np.where(shape_ZYX, 255, 0).astype(np.uint8)
    image = nib.Nifti1Image(values.transpose(2, 1, 0), np.diag([-1.0, -1.0, 1.0, 1.0]))
    if distance:
        image.header.set_slope_inter(0.1, 0.0)
    nib.save(image, file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=("sts", "adrenal"))
    parser.add_argument("source", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--distance", action="store_true")
    arguments = parser.parse_args()
    if arguments.data == "sts":
        list_sts(arguments.source, arguments.out)
    else:
        list_adrenal(arguments.source, arguments.out, distance=arguments.distance)


if __name__ == "__main__":
    main()
