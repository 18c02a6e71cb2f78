"""Do the structures that a segmenter found look like those of the scans it learnt from, and does the scan?

A segmenter outlines something in a chest or a thigh as well. So what it found (each structure's volume, and how likely
it thought it), what its encoder made of the scan and a coarse picture are held against validation scans, with the same
gauge as for answers (inference/calibration/strangeness.py); the model folder keeps it in calibration.json.
K structures, C memory channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from slicesight.inference.calibration.scan_features import ScanFeatures, coarse_picture
from slicesight.inference.calibration.storage import read_calibration
from slicesight.inference.calibration.strangeness import ScanGauge, ScanJudgement
from slicesight.inference.segmenting import Segmentation
from slicesight.models.med3dinsight import Segmenter
from slicesight.volumes.volume import Volume

FOUND = "found"
REFUSED_ABOVE = 3.0
"""Times the limit from which a scan is not only marked but refused."""
SMALLEST_ML = 0.1


@dataclass(frozen=True, kw_only=True)
class FoundJudgement:
    """score: 1 is the limit; reason: in what the scan is strange, "" where it is not; is_refused: so much so that no
    outline of it should be shown."""

    score: float
    reason: str = ""
    is_refused: bool = False

    @property
    def is_strange(self) -> bool:
        return bool(self.reason)

    def to_dict(self) -> dict[str, Any]:
        """For JSON; a score without bound is null."""
        score = round(self.score, 3) if math.isfinite(self.score) else None
        return {"score": score, "limit": 1.0, "is_strange": self.is_strange, "reason": self.reason}


def read_gauge(folder: Path) -> ScanGauge | None:
    """The gauge of a segmenter's folder, None where it was never calibrated; ModelError for a damaged one."""
    calibration = read_calibration(folder)
    return None if calibration is None else calibration.scans


def judge_found(found: Segmentation, segmenter: Segmenter, volume: Volume, gauge: ScanGauge) -> FoundJudgement:
    """How unlike the gauge's scans this one is; one in which no structure was found is always refused."""
    if not found.labels.any():
        return FoundJudgement(score=math.inf, reason="none of the structures was found in it", is_refused=True)
    judged: ScanJudgement = gauge.judge(measure_found(found, segmenter, volume))
    return FoundJudgement(score=judged.score, reason=judged.reason, is_refused=judged.score > REFUSED_ABOVE)


def measure_found(found: Segmentation, segmenter: Segmenter, volume: Volume) -> ScanFeatures:
    """What the gauge looks at: 2K numbers of the structures, 2C of the memory, and the coarse picture.

    Needs a segmentation that kept the memory.
    """
    assert found.memory is not None
    voxel_ml = float(np.prod(volume.spacing_mm or (1.0, 1.0, 1.0))) / 1000
    counts = np.bincount(found.labels.ravel(), minlength=max(segmenter.values) + 1)
    volumes = [math.log(SMALLEST_ML + float(counts[value]) * voxel_ml) for value in segmenter.values]
    likely = [found.likely[name] or 0.0 for name in segmenter.names]
    return ScanFeatures(
        facts={"plane": "axial", "synthetic": "yes" if volume.is_synthetic else "no"},
        vectors={
            FOUND: np.array([*volumes, *likely], dtype=np.float64),
            "encoders": found.memory,
            "picture": coarse_picture(found.prepared.voxels).ravel(),
        },
    )
