"""What do other programs read? SimpleITK and nibabel: stored arrays and their RAS affine; pydicom: values alone."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import SimpleITK as sitk  # noqa: N813
from corpus_cases import LPS_FROM_RAS, Read


def with_simpleitk(path: Path, time_point: int | None = None) -> Read | None:
    """As SimpleITK reads it, None where it refuses or has no 3D grey values."""
    try:
        if path.is_dir():
            names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(path))
            image = sitk.ReadImage(names) if names else None
        else:
            image = sitk.ReadImage(str(path))
    except RuntimeError:
        return None
    if image is not None and image.GetDimension() == 4 and time_point is not None:
        image = image[..., time_point] if time_point < image.GetSize()[3] else None
    if image is None or image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        return None
    array = sitk.GetArrayFromImage(image)
    if array.dtype.kind == "c":
        return None
    lps = np.eye(4)
    lps[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) @ np.diag(image.GetSpacing())
    lps[:3, 3] = image.GetOrigin()
    return Read(array.transpose(2, 1, 0), LPS_FROM_RAS @ lps)


def with_nibabel(path: Path, time_point: int | None = None) -> Read:
    """As nibabel reads it."""
    image = nib.load(path)
    array = np.asarray(image.dataobj).squeeze()
    return Read(array if time_point is None else array[..., time_point], image.affine)


def with_pydicom(path: Path, time_point: int | None = None) -> Read:
    """As pydicom decodes it, slope and intercept applied, places left out."""
    frames = []
    for file in sorted(path.iterdir()):
        dataset = pydicom.dcmread(file, force=True)
        frames.append(
            dataset.pixel_array.astype(float) * float(dataset.get("RescaleSlope", 1))
            + float(dataset.get("RescaleIntercept", 0))
        )
    return Read(np.stack(frames))


ORACLES = {"sitk": with_simpleitk, "nibabel": with_nibabel, "pydicom": with_pydicom}


def agree(one: Read, other: Read) -> bool:
    """Whether two readings have the same values at the same places, in whatever order they store them."""
    if one.values.size != other.values.size:
        return False
    if one.ras is None or other.ras is None:
        return bool(np.allclose(np.sort(one.values.ravel()), np.sort(other.values.ravel()), atol=1e-2, rtol=1e-5))
    index = np.moveaxis(np.indices(one.values.shape), 0, -1).reshape(-1, 3)
    held = (np.c_[index, np.ones(len(index))] @ (np.linalg.inv(other.ras) @ one.ras).T)[:, :3]
    near = np.rint(held).astype(int)
    if np.abs(held - near).max() > 0.02 or near.min() < 0 or (near.max(axis=0) >= other.values.shape).any():
        return False
    return bool(np.allclose(other.values[tuple(near.T)], one.values.reshape(-1), atol=1e-2, rtol=1e-5))
