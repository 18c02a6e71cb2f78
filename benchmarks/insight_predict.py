"""Where does the time of `insight predict` go on a long scan, and do its labels stay the same?

    python benchmarks/insight_predict.py [--size 1400 512 512] [--backbone '{"name": ...}'] [--against MASK.npy]

A made body of two ellipsoids in air, of 1.0 × 0.8 × 0.8 mm, and a segmenter with random weights, 4 mm voxels and
windows of 32³ (96³ and 2 mm with --wide). Prints one JSON line: processor seconds of every part, the peak of memory,
and how many voxels have another label than in the mask that an earlier run wrote with --keep.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

from slicesight.inference import scan_prediction, segmenting
from slicesight.models.encoders3d.backbones import build_backbone
from slicesight.models.folder import write_model_folder
from slicesight.models.med3dinsight import InsightConfig, Segmenter
from slicesight.models.med3dinsight.preparation import Preparation

SPACING = (1.0, 0.8, 0.8)


def write_scan(path: Path, size: tuple[int, int, int]) -> None:
    """Tissue with noise, a denser organ, air around: two thirds of the voxels are air."""
    rng = np.random.default_rng(0)
    axes = [np.linspace(-1, 1, length, dtype=np.float32) for length in size]
    noise = rng.normal(0, 20, size[1:]).astype(np.float32)
    stored = np.empty(size[::-1], np.int16, order="F")
    for k, z in enumerate(axes[0]):
        y, x = axes[1][:, None], axes[2][None]
        plane = np.where((y / 0.6) ** 2 + (x / 0.8) ** 2 < 1, 40.0 + noise, -1000)
        plane = np.where(((y + 0.1) / 0.25) ** 2 + ((x - 0.2) / 0.3) ** 2 + (z / 0.5) ** 2 < 1, 140 + noise, plane)
        stored[:, :, k] = plane.T
    nib.save(nib.Nifti1Image(stored, np.diag([-SPACING[2], -SPACING[1], SPACING[0], 1])), path)


def write_segmenter(folder: Path, *, wide: bool, backbone: dict[str, Any] | None, settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    size, spacing = ((96,) * 3, 2.0) if wide else ((32,) * 3, 4.0)
    plain = {"name": "segresnet", "init_filters": 8, "blocks_down": [1, 1, 1], "blocks_up": [1, 1]}
    network = build_backbone(image_size=size, **(backbone or plain))
    how = Preparation(spacing_mm=(spacing,) * 3, window="auto")
    config = InsightConfig(labels={"one": 1, "two": 2}, preparation=how.to_dict(), overlap=0.25, **settings)
    segmenter = Segmenter(config, network)
    write_model_folder(folder, kind="segmenter", facts=segmenter.facts(), model=segmenter)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, nargs=3, default=(1400, 512, 512), metavar=("Z", "Y", "X"))
    parser.add_argument("--wide", action="store_true")
    parser.add_argument("--backbone", type=json.loads)
    parser.add_argument("--settings", type=json.loads, default={}, help='of the segmenter, such as {"overlap": 0.5}')
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--against", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    seconds: Counter[str] = Counter()

    def timed(module: Any, name: str) -> None:
        inner: Callable[..., Any] = getattr(module, name)

        def outer(*arguments: Any, **keywords: Any) -> Any:
            began = time.process_time()
            try:
                return inner(*arguments, **keywords)
            finally:
                seconds[name.strip("_")] += time.process_time() - began

        setattr(module, name, outer)

    for module, name in (
        (scan_prediction, "read_volume"),
        (scan_prediction, "load_segmenter"),
        (segmenting, "prepare_scan"),
        (segmenting._Windows, "slide"),
        (segmenting, "to_scan_voxels"),
        (segmenting, "_likely"),
        (scan_prediction, "_structure"),
        (scan_prediction, "write_mask"),
    ):
        timed(module, name)
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        scan, model, mask = Path(place) / "scan.nii", Path(place) / "model", Path(place) / "mask.nii.gz"
        write_scan(scan, tuple(options.size))
        write_segmenter(model, wide=options.wide, backbone=options.backbone, settings=options.settings)
        began = time.process_time()
        facts = scan_prediction.predict_scan(scan_prediction.PredictRequest(scan=scan, model=model, out=mask))
        whole = time.process_time() - began
        labels = np.asarray(nib.load(mask).dataobj)
    row = {"size": list(options.size), "cpu_s": round(whole, 2), "parts": {k: round(v, 2) for k, v in seconds.items()}}
    row["peak_gb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
    row["voxels"] = [one["voxels"] for one in facts["structures"]]
    if options.keep:
        np.save(options.keep, labels)
    if options.against:
        row["differing"] = int((np.load(options.against) != labels).sum())
    print(json.dumps(row))


if __name__ == "__main__":
    main()
