"""What does a trained segmenter or classifier find in one scan? The use of a folder that an insight verb wrote.

B crops of N x H x W voxels, K structures.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from slicesight.errors import InputError
from slicesight.io.loading import read_volume
from slicesight.io.masks import write_dicom_seg, write_mask
from slicesight.io.writers import check_nifti_name
from slicesight.models.encoders3d.monai import import_monai
from slicesight.models.folder import read_model_folder
from slicesight.models.med3dinsight import Classifier, Segmenter
from slicesight.models.med3dinsight.preparation import fitted_cube, prepare_scan
from slicesight.models.med3dinsight.trained_on import other_kind, unusual
from slicesight.volumes.receipt import scan_line
from slicesight.volumes.volume import Volume

log = logging.getLogger(__name__)
BLOCK_SLICES = 16
Progress = Callable[[str, int, int], None]
Draw = Callable[[Path, Volume, NDArray[np.int32], Segmenter], None]


@dataclass(frozen=True, kw_only=True)
class PredictRequest:
    """One scan, a model's folder, and what to write.

    scan, series_uid, spacing_mm, time_point, unit, fill: as for `read_volume`. out: a NIfTI mask; dicom_seg: a SEG
    of a DICOM scan; png: an overlay, which `draw` makes. any_kind: go on, with a warning, where the scan is of another
    kind than those the model learnt from.
    """

    scan: Path
    model: Path
    out: Path | None = None
    dicom_seg: Path | None = None
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
            another modality or unit than the model learnt from.
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
        return facts | {"probabilities": classify_volume(Classifier.from_pretrained(request.model), volume, name=name)}
    if request.dicom_seg is not None and volume.source.get("format") != "DICOM":
        raise InputError(f"{name}: a DICOM SEG refers to DICOM images; this scan is no DICOM, pass --out MASK.nii.gz")
    segmenter = Segmenter.from_pretrained(request.model)
    labels = segment_volume(segmenter, volume, name=name, progress=progress)
    _write(labels, segmenter, volume, request)
    if request.png is not None and draw is not None:
        draw(request.png, volume, labels, segmenter)
    structures = [
        _structure(name, value, labels, volume) for name, value in zip(segmenter.names, segmenter.values, strict=True)
    ]
    return facts | {"structures": structures}


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


@torch.inference_mode()
def segment_volume(
    segmenter: Segmenter, volume: Volume, *, name: str, progress: Progress | None = None
) -> NDArray[np.int32]:
    """Label values (Z, Y, X) on the scan's own canonical voxels.

    Windows overlap and are weighed by a Gaussian; logits are interpolated to the scan's voxels, then the highest wins.
    """
    size, overlap = segmenter.backbone.spec.image_size, segmenter.config.overlap
    scan = prepare_scan(volume, segmenter.preparation, image_size=size, name=name)
    device = next(segmenter.parameters()).device
    segmenter.eval()
    num_windows, done = count_windows(scan.voxels.shape, size, overlap), 0

    def segment_window(window: torch.Tensor) -> torch.Tensor:
        nonlocal done
        logits: torch.Tensor = segmenter(window)
        done += 1
        if progress is not None:
            progress("segmenting", done, num_windows)
        return logits

    logits_KNHW = import_monai("monai.inferers").sliding_window_inference(
        torch.from_numpy(scan.voxels)[None, None].to(device), size, 1, segment_window, overlap=overlap, mode="gaussian"
    )[0]
    labels = np.zeros(volume.shape, np.int32)
    inside = labels[tuple(slice(*part) for part in scan.box)]
    del scan
    for first in range(0, len(inside), BLOCK_SLICES):
        block = inside[first : first + BLOCK_SLICES]
        block[...] = fullest_values(logits_KNHW, segmenter.values, first, inside.shape, len(block))
        if progress is not None:
            progress("bringing labels to the scan's voxels", first + len(block), len(inside))
    return labels


def fullest_values(
    logits_KNHW: torch.Tensor, values: Sequence[int], first: int, shape_ZYX: tuple[int, ...], count: int
) -> NDArray[np.int32]:
    """The value of the highest logit in `count` slices from the first on, trilinearly interpolated to the shape.

    The planes around each slice are interpolated first, then between them, as torch's trilinear mode does for all at
    once; so only a few slices are ever there at full size.
    """
    num_planes, depth = logits_KNHW.shape[1], shape_ZYX[0]
    at = ((torch.arange(first, first + count) + 0.5) * (num_planes / depth) - 0.5).clamp(min=0)
    below = at.long().clamp(max=num_planes - 1)
    above = (below + 1).clamp(max=num_planes - 1)
    share = (at - below).to(logits_KNHW)[:, None, None]
    start, stop = int(below[0]), int(above[-1]) + 1
    best, classes = None, torch.zeros((count, *shape_ZYX[1:]), dtype=torch.int32, device=logits_KNHW.device)
    for number, logits_NHW in enumerate(logits_KNHW):
        planes = functional.interpolate(
            logits_NHW[start:stop][None], size=shape_ZYX[1:], mode="bilinear", align_corners=False
        )[0]
        fine = planes[below - start] * (1 - share) + planes[above - start] * share
        if best is None:
            best = fine
            continue
        classes[fine > best] = values[number - 1]
        best = torch.maximum(best, fine)
    found: NDArray[np.int32] = classes.cpu().numpy()
    return found


def count_windows(shape: Sequence[int], window: Sequence[int], overlap: float) -> int:
    """How many windows the sliding window has to look at."""
    steps = [1 if size <= side else math.ceil((size - side) / max(1, int(side * (1 - overlap)))) + 1
             for size, side in zip(shape, window, strict=True)]  # fmt: skip
    return math.prod(steps)


def classify_volume(classifier: Classifier, volume: Volume, *, name: str) -> dict[str, float]:
    """The probability of every class for one scan."""
    size = classifier.backbone.spec.image_size
    scan = prepare_scan(volume, classifier.preparation, image_size=size, name=name)
    device = next(classifier.parameters()).device
    (found,) = classifier.probabilities(fitted_cube(scan.voxels, size)[None].to(device)).tolist()
    return dict(zip(classifier.classes, found, strict=True))


def _write(labels: NDArray[np.int32], segmenter: Segmenter, volume: Volume, request: PredictRequest) -> None:
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


def _structure(name: str, value: int, labels: NDArray[np.integer], volume: Volume) -> dict[str, Any]:
    found = labels == value
    facts: dict[str, Any] = {"name": name, "value": value, "voxels": int(found.sum())}
    if volume.spacing_mm is not None:
        facts["volume_ml"] = round(float(found.sum() * np.prod(volume.spacing_mm)) / 1000, 3)
    facts["source_slices"] = _source_slices(found, volume)
    return facts


def _source_slices(found: NDArray[np.bool_], volume: Volume) -> Sequence[int] | None:
    """First and last stored slice that show it, 0-based."""
    axis = volume.acquisition_axis
    held = np.flatnonzero(found.any(axis=tuple(other for other in range(3) if other != axis)))
    if not held.size:
        return None
    source = volume.geometry.source_slices(held.tolist())
    return [source[0], source[-1]]
