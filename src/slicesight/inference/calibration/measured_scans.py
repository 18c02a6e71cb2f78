"""What is known of each scan that a calibration is made of? Whose it is, its measurements, and those of its copies."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from slicesight.data.manifest import Case
from slicesight.inference.calibration.scan_changes import PICTURES, SPACINGS, changed_grid
from slicesight.inference.calibration.scan_features import ScanFeatures, measure_scan
from slicesight.inference.calibration.strangeness import Copies

if TYPE_CHECKING:
    from slicesight.inference.encoded_scan import EncodedScan
    from slicesight.inference.predictor import Predictor


@dataclass(frozen=True, kw_only=True)
class MeasuredScan:
    """is_held_out: not of the training data. copies: with one thing wrong each, of some scans only."""

    patient: str
    is_held_out: bool
    features: ScanFeatures
    copies: Copies = field(default_factory=dict)


def measure_case(
    predictor: Predictor, scan: EncodedScan, case: Case, *, is_held_out: bool, with_copies: bool
) -> MeasuredScan:
    """A scan as it is and, where they are wanted, with every change of `scan_changes`, drawn by the case's name."""
    features = measure_scan(scan)
    copies: dict[str, ScanFeatures] = {}
    if with_copies:
        rng = np.random.default_rng(zlib.crc32(case.id.encode()))
        for change in PICTURES:
            copies[change] = measure_scan(predictor.encode(changed_grid(scan.grid, change, rng)))
        for change, factors in SPACINGS.items():
            if (copy := features.with_spacing(*factors)) is not None:
                copies[change] = copy
    return MeasuredScan(patient=patient_of(case), is_held_out=is_held_out, features=features, copies=copies)


def patient_of(case: Case) -> str:
    """Who was scanned; a case without a patient is one of its own."""
    return f"{case.source}/{case.patient}" if case.patient is not None else case.id
