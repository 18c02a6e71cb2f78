"""What does a trained segmenter or classifier say of one scan? The use of a folder that segment or classify wrote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from slicesight.errors import InputError
from slicesight.io.loading import read_volume
from slicesight.io.masks import check_mask_name, write_dicom_seg, write_mask
from slicesight.models.folder import read_model_folder
from slicesight.reports.overlays import write_overlay
from slicesight.training.insight.classification import classify_volume, load_classifier
from slicesight.training.insight.segmentation import Segmenter, load_segmenter, segment_volume
from slicesight.volumes.receipt import scan_line
from slicesight.volumes.volume import Volume


@dataclass(frozen=True, kw_only=True)
class PredictRequest:
    """One scan, a model's folder, and what to write.

    scan, series_uid, spacing_mm, time_point, unit: as for `read_volume`. out: a NIfTI mask; dicom_seg: a DICOM SEG of
    a DICOM scan; png: an overlay.
    """

    scan: Path
    model: Path
    out: Path | None = None
    dicom_seg: Path | None = None
    png: Path | None = None
    series_uid: str | None = None
    spacing_mm: tuple[float, float, float] | None = None
    time_point: int | None = None
    unit: str | None = None


def predict_scan(request: PredictRequest) -> dict[str, Any]:
    """Segment or classify one scan -> its facts and the volume of every structure, or the classes' probabilities.

    Raises:
        InputError: a scan or folder that cannot be used, outputs that do not fit the model or the scan.
    """
    config, _ = read_model_folder(request.model)
    wanted = [path for path in (request.out, request.dicom_seg, request.png) if path is not None]
    if config["kind"] not in ("segmenter", "classifier"):
        raise InputError(f"{request.model}: a pre-trained backbone predicts nothing; fine-tune it: insight segment")
    if config["kind"] == "segmenter" and not wanted:
        raise InputError("nothing to write; pass --out MASK.nii.gz, --dicom-seg FILE or --png FILE")
    if config["kind"] == "classifier" and wanted:
        raise InputError(f"{request.model}: a classifier makes no mask; leave {wanted[0]} out, the answer is printed")
    if request.out is not None:
        check_mask_name(request.out)
    volume = read_volume(
        request.scan,
        series_uid=request.series_uid,
        spacing_mm=request.spacing_mm,
        time_point=request.time_point,
        unit=request.unit,  # type: ignore[arg-type]
    )
    facts: dict[str, Any] = {"scan": scan_line(volume), "model": config["kind"]}
    name = request.scan.name
    if config["kind"] == "classifier":
        return facts | {"probabilities": classify_volume(load_classifier(request.model), volume, name=name)}
    if request.dicom_seg is not None and volume.source.get("format") != "DICOM":
        raise InputError(f"{name}: a DICOM SEG refers to DICOM images; this scan is no DICOM, pass --out MASK.nii.gz")
    segmenter = load_segmenter(request.model)
    return facts | {"structures": _segment(segmenter, volume, request)}


def _segment(segmenter: Segmenter, volume: Volume, request: PredictRequest) -> list[dict[str, Any]]:
    labels = segment_volume(segmenter, volume, name=request.scan.name)
    if request.out is not None:
        write_mask(labels, volume, source=request.scan, out=request.out)
    if request.dicom_seg is not None:
        write_dicom_seg(
            labels,
            volume,
            source=request.scan,
            out=request.dicom_seg,
            names=segmenter.names,
            values=segmenter.values,
            algorithm=f"slicesight {segmenter.backbone.spec.name}",
        )
    if request.png is not None:
        write_overlay(
            volume,
            labels,
            request.png,
            names=segmenter.names,
            values=segmenter.values,
            window=segmenter.preparation.window,
            title=f"{scan_line(volume)}\nfor research use only; not a medical device",
        )
    return [
        _structure(name, value, labels, volume) for name, value in zip(segmenter.names, segmenter.values, strict=True)
    ]


def _structure(name: str, value: int, labels: np.ndarray[Any, Any], volume: Volume) -> dict[str, Any]:
    found = labels == value
    facts: dict[str, Any] = {"name": name, "value": value, "voxels": int(found.sum())}
    if volume.spacing_mm is not None:
        facts["volume_ml"] = round(float(found.sum() * np.prod(volume.spacing_mm)) / 1000, 3)
    facts["source_slices"] = _source_slices(found, volume)
    return facts


def _source_slices(found: np.ndarray[Any, Any], volume: Volume) -> Sequence[int] | None:
    """First and last stored slice that show it, 0-based."""
    axis = volume.acquisition_axis
    held = np.flatnonzero(found.any(axis=tuple(other for other in range(3) if other != axis)))
    if not held.size:
        return None
    source = volume.geometry.source_slices(held.tolist())
    return [source[0], source[-1]]
