"""What does a trained segmenter or classifier find in one scan? The use of a folder that an insight verb wrote.

B crops of N x H x W voxels, K structures.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from slicesight.errors import InputError
from slicesight.files import write_text
from slicesight.inference.calibration.strangeness import ScanGauge
from slicesight.inference.found_structures import judge_found, read_gauge
from slicesight.inference.segmenting import Progress, Segmentation, segment_scan
from slicesight.io.loading import read_volume
from slicesight.io.masks import write_dicom_seg, write_mask
from slicesight.io.rtstruct import write_rtstruct
from slicesight.io.writers import check_nifti_name
from slicesight.models.folder import read_model_folder
from slicesight.models.med3dinsight import Classifier, Segmenter
from slicesight.models.med3dinsight.preparation import fitted_cube, prepare_scan
from slicesight.models.med3dinsight.trained_on import other_kind, unusual
from slicesight.models.shipped import find_folder, how_to_get, nearest_model
from slicesight.volumes.receipt import scan_line
from slicesight.volumes.volume import Volume

log = logging.getLogger(__name__)
Draw = Callable[[Path, Volume, NDArray[np.int32], Segmenter], None]


@dataclass(frozen=True, kw_only=True)
class PredictRequest:
    """One scan, a model's folder, and what to write.

    scan, series_uid, spacing_mm, time_point, unit, fill: as for `read_volume`. model: a folder, or the name of a
    shipped or pulled one. out: a NIfTI mask, with the findings and the names of its labels in a .json beside it;
    dicom_seg, rtstruct: of a DICOM scan; png: an overlay, which `draw` makes. any_kind: go on, with a warning, where
    the scan is unlike those the model learnt from.
    """

    scan: Path
    model: Path | str
    out: Path | None = None
    dicom_seg: Path | None = None
    rtstruct: Path | None = None
    png: Path | None = None
    series_uid: str | None = None
    spacing_mm: tuple[float, float, float] | None = None
    time_point: int | None = None
    fill: str | None = None
    unit: str | None = None
    any_kind: bool = False


def predict_scan(
    request: PredictRequest, *, draw: Draw | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Segment or classify one scan -> its facts and the volume of every structure, or the classes' probabilities.

    Args:
        draw: makes the picture `png` of a scan, its labels and the segmenter that found them.
        progress: called with what is being done, how much is done and how much there is.

    Raises:
        InputError: a scan or folder that cannot be used, outputs that do not fit the model or the scan, a scan of
            another modality or unit than the model learnt from, or that shows nothing of what it knows.
    """
    folder = _folder_of(request.model)
    config, _ = read_model_folder(folder)
    wanted = [path for path in (request.out, request.dicom_seg, request.rtstruct, request.png) if path is not None]
    if config["kind"] not in ("segmenter", "classifier"):
        raise InputError(f"{request.model}: a pre-trained backbone predicts nothing; fine-tune it: insight segment")
    if config["kind"] == "segmenter" and not wanted:
        raise InputError("nothing to write; pass --out MASK.nii.gz, --dicom-seg FILE, --rtstruct FILE or --png FILE")
    if config["kind"] == "classifier" and wanted:
        raise InputError(f"{request.model}: a classifier makes no mask; leave {wanted[0]} out, the answer is printed")
    if request.out is not None:
        check_nifti_name(request.out)
    volume = read_volume(
        request.scan,
        series_uid=request.series_uid,
        spacing_mm=request.spacing_mm,
        time_point=request.time_point,
        unit=request.unit,  # type: ignore[arg-type]
        fill=request.fill,
    )
    name = request.scan.name
    warnings = _check_kind(volume, config.get("trained_on"), request)
    facts: dict[str, Any] = {"scan": scan_line(volume), "model": config["kind"], "warnings": warnings}
    if config["kind"] == "classifier":
        return facts | {"probabilities": classify_volume(Classifier.from_pretrained(folder), volume, name=name)}
    for kind, path in (("SEG", request.dicom_seg), ("RTSTRUCT", request.rtstruct)):
        if path is not None and volume.source.get("format") != "DICOM":
            raise InputError(
                f"{name}: a DICOM {kind} refers to DICOM images; this scan is no DICOM, pass --out MASK.nii.gz"
            )
    segmenter = load_segmenter(folder)
    gauge = read_gauge(folder)
    found = segment_scan(segmenter, volume, name=name, keeps_memory=gauge is not None, progress=progress)
    if gauge is not None:
        facts["strangeness"] = _check_found(found, segmenter, volume, gauge, request, warnings)
    structures = [
        _structure(name, value, found, volume) for name, value in zip(segmenter.names, segmenter.values, strict=True)
    ]
    facts["structures"] = structures
    _write(found.labels, segmenter, volume, request, facts)
    if request.png is not None and draw is not None:
        draw(request.png, volume, found.labels, segmenter)
    return facts


def load_segmenter(folder: Path) -> Segmenter:
    """The segmenter of a folder in float32, however its weights are stored, ready to outline."""
    segmenter: Segmenter = Segmenter.from_pretrained(folder, dtype=torch.float32)
    if segmenter.config.bf16:
        torch.nn.Module.to(segmenter, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    return segmenter


def sidecar_of(mask: Path) -> Path:
    """Where the names of a mask's labels are written: mask.nii.gz -> mask.json."""
    return mask.with_name(mask.name.removesuffix(".gz").removesuffix(".nii") + ".json")


def _folder_of(name_or_dir: Path | str) -> Path:
    folder = find_folder(name_or_dir)
    if not folder.exists():
        name = str(name_or_dir)
        raise InputError(f"{name}: no such folder or model; {how_to_get(name) or nearest_model(name)}")
    return folder


def _check_found(
    found: Segmentation,
    segmenter: Segmenter,
    volume: Volume,
    gauge: ScanGauge,
    request: PredictRequest,
    warnings: list[str],
) -> dict[str, Any]:
    """How unlike those of training the scan is: 1 is the limit; added to the warnings, or refused, above it."""
    judged = judge_found(found, segmenter, volume, gauge)
    if judged.is_strange:
        line = f"this scan is unlike those the model learnt from: {judged.reason}"
        if judged.is_refused and not request.any_kind:
            raise InputError(
                f"{request.scan.name}: {line}; nothing was written, take a model of this kind of scan or go on with "
                "--any-kind"
            )
        log.warning("%s: %s", request.scan.name, line)
        warnings.append(line)
    return judged.to_dict()


def _check_kind(volume: Volume, trained_on: dict[str, Any] | None, request: PredictRequest) -> list[str]:
    """In what the scan differs from those the model learnt from, a sentence each; logged as well."""
    if trained_on is None:
        warnings = ["the model folder does not say what scans it learnt from, so this scan was not held against them"]
    else:
        other = other_kind(volume, trained_on)
        if other is not None and not request.any_kind:
            raise InputError(
                f"{request.scan.name}: {other}; take a model of this kind of scan, say what the scan is with --unit, "
                "or go on with --any-kind"
            )
        warnings = [*([other] if other else []), *unusual(volume, trained_on)]
    for warning in warnings:
        log.warning("%s: %s", request.scan.name, warning)
    return warnings


def classify_volume(classifier: Classifier, volume: Volume, *, name: str) -> dict[str, float]:
    """The probability of every class for one scan."""
    size = classifier.backbone.spec.image_size
    scan = prepare_scan(volume, classifier.preparation, image_size=size, name=name)
    device = next(classifier.parameters()).device
    (found,) = classifier.probabilities(fitted_cube(scan.voxels, size)[None].to(device)).tolist()
    return dict(zip(classifier.classes, found, strict=True))


def _write(
    labels: NDArray[np.int32], segmenter: Segmenter, volume: Volume, request: PredictRequest, facts: dict[str, Any]
) -> None:
    if request.out is not None:
        write_mask(labels, volume, source=request.scan, out=request.out)
        write_text(sidecar_of(request.out), text=json.dumps({"schema": 1, **facts}, indent=1) + "\n")
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
    if request.rtstruct is not None:
        write_rtstruct(
            labels,
            volume,
            source=request.scan,
            out=request.rtstruct,
            names=segmenter.names,
            values=segmenter.values,
            algorithm=f"slicesight {segmenter.backbone.spec.name}",
        )


def _structure(name: str, value: int, segmentation: Segmentation, volume: Volume) -> dict[str, Any]:
    found = segmentation.labels == value
    facts: dict[str, Any] = {"name": name, "value": value, "voxels": int(found.sum())}
    if volume.spacing_mm is not None:
        facts["volume_ml"] = round(float(found.sum() * np.prod(volume.spacing_mm)) / 1000, 3)
    facts["source_slices"] = _source_slices(found, volume)
    if segmentation.likely[name] is not None:
        facts["mean_probability"] = segmentation.likely[name]
    return facts


def _source_slices(found: NDArray[np.bool_], volume: Volume) -> Sequence[int] | None:
    """First and last stored slice that show it, 0-based."""
    axis = volume.acquisition_axis
    held = np.flatnonzero(found.any(axis=tuple(other for other in range(3) if other != axis)))
    if not held.size:
        return None
    source = volume.geometry.source_slices(held.tolist())
    return [source[0], source[-1]]
