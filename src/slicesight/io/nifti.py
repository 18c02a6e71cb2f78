"""How is a NIfTI file (.nii, .nii.gz, .hdr with .img) read without trusting its header?"""

from __future__ import annotations

import zlib
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from slicesight.io.assemble import MAX_MM, ReadOptions, assemble, chosen_volume
from slicesight.io.files import ScanError, about
from slicesight.io.voxel_bytes import GZIP_MAGIC, ByteSource, byte_source, check_claim, read_voxels, skip
from slicesight.volumes.geometry import LPS_FROM_RAS, orientation_of
from slicesight.volumes.volume import Volume

SYNTHETIC_MARKER = "slicesight phantom"
_FIRST = (b"\x5c\x01\0\0", b"\0\0\x01\x5c")
_SECOND = (b"\x1c\x02\0\0", b"\0\0\x02\x1c")
_MAX_HEADER_BYTES = 1 << 26
_SAME_PLACE_MM = 0.1


def is_nifti(path: Path, head: bytes) -> bool:
    """Whether the file, or what its gzip holds, starts like NIfTI-1 or NIfTI-2."""
    if head[:2] == GZIP_MAGIC:
        try:
            with path.open("rb") as stream:
                head = zlib.decompressobj(31).decompress(stream.read(4096), 512)
        except zlib.error:
            head = b""
        if not head:  # damaged from the start: let the NIfTI reader say how
            return path.name.endswith((".nii.gz", ".nii"))
    return head[:4] in _FIRST + _SECOND


def read_nifti(path: Path, options: ReadOptions) -> Volume:
    """A NIfTI-1 or NIfTI-2 scan."""
    notes: list[str] = []
    with ExitStack() as stack:
        source, packing = _opened(stack, path)
        header = _header(source)
        shape, skipped = chosen_volume(_sizes(header), options, notes)
        dtype = _dtype(header)
        consumed = int(header["sizeof_hdr"])
        if bytes(header["magic"].tobytes())[:2] == b"ni":
            path = _image_beside(path)
            stack.enter_context(about(path.name))
            source, packing = _opened(stack, path)
            consumed = 0
        volume_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        start = _data_offset(header) + skipped * volume_bytes
        check_claim(path, shape, start + volume_bytes, packing)
        skip(source, start - consumed)
        stored = read_voxels(source, shape, dtype)
    affine, spacing, orientation = _affine(header, notes)
    is_synthetic = bytes(header["descrip"].tobytes()).rstrip(b"\0").decode("latin-1") == SYNTHETIC_MARKER
    return assemble(
        stored,
        affine,
        options,
        scale=_scale(header),
        orientation=orientation,
        spacing_ijk=spacing,
        modality="CT" if is_synthetic else "unknown",
        unit="HU" if is_synthetic else None,
        warnings=notes,
        source={"format": "NIfTI-2" if int(header["sizeof_hdr"]) == 540 else "NIfTI-1", "stored_type": str(dtype)},
        is_synthetic=is_synthetic,
    )


def _opened(stack: ExitStack, path: Path) -> tuple[ByteSource, str]:
    stream = stack.enter_context(path.open("rb"))
    packing = "gzip" if stream.read(2) == GZIP_MAGIC else "plain"
    stream.seek(0)
    return byte_source(stream, packing), packing


def _image_beside(header_path: Path) -> Path:
    stem = header_path.name.removesuffix(".gz").removesuffix(".hdr")
    for suffix in (".img", ".img.gz"):
        image = header_path.with_name(stem + suffix)
        if image.is_file():
            return image
    raise ScanError(f"the voxels should be in {stem}.img beside it; put both files into one folder")


def _header(source: ByteSource) -> Any:
    block = source.read(348)
    is_second = block[:4] in _SECOND
    if is_second:
        block += source.read(540 - 348)
    expected = 540 if is_second else 348
    if len(block) < expected:
        raise ScanError(f"found {len(block)} bytes, expected a NIfTI header of {expected}; copy the file again")
    if block[:4] not in _FIRST + _SECOND:
        raise ScanError("the gzip does not hold a NIfTI header; expected .nii.gz, check what was packed")
    kind: Any = nib.Nifti2Header if is_second else nib.Nifti1Header
    header = kind(block, check=False)
    magic = bytes(header["magic"].tobytes())[:3]
    if magic not in (b"n+1", b"n+2", b"ni1", b"ni2"):
        raise ScanError(
            f"header magic is {magic!r} (Analyze 7.5 or damaged), expected 'n+1' or 'ni1'; export it as NIfTI"
        )
    return header


def _sizes(header: Any) -> tuple[int, ...]:
    num_axes = int(header["dim"][0])
    if not 1 <= num_axes <= 7:
        raise ScanError(f"the header claims {num_axes} dimensions; expected 3, fix the header")
    sizes = tuple(int(size) for size in header["dim"][1 : num_axes + 1])
    if min(sizes) < 1:
        raise ScanError(f"the header's shape is {sizes}; expected sizes of 1 or more, fix the header")
    return sizes


def _dtype(header: Any) -> np.dtype[Any]:
    try:
        dtype: np.dtype[Any] = header.get_data_dtype()
    except (HeaderDataError, KeyError):
        raise ScanError(f"NIfTI datatype {int(header['datatype'])} is unknown; fix the header") from None
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise ScanError(f"voxels are {dtype} (colour or complex); expected integers or floats, convert them first")
    if int(header["bitpix"]) not in (0, dtype.itemsize * 8):
        raise ScanError(f"datatype {dtype} has {dtype.itemsize * 8} bits, not {int(header['bitpix'])}; fix the header")
    return dtype


def _data_offset(header: Any) -> int:
    """Where the voxels begin in the file that holds them."""
    offset = float(header["vox_offset"])
    is_pair = bytes(header["magic"].tobytes())[:2] == b"ni"
    least = 0 if is_pair else int(header["sizeof_hdr"])
    if offset == 0 and not is_pair:
        return least + 4
    if not (np.isfinite(offset) and least <= offset <= _MAX_HEADER_BYTES and offset == int(offset)):
        raise ScanError(f"vox_offset is {offset:g}; expected {least + 4} or a little more, fix the header")
    return int(offset)


def _scale(header: Any) -> tuple[float, float]:
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or not np.isfinite(slope):
        return 1.0, 0.0
    if not np.isfinite(intercept):
        raise ScanError(f"scl_inter is {intercept}; expected a number, fix the header")
    return slope, intercept


def _affine(header: Any, notes: list[str]) -> tuple[NDArray[np.float64] | None, list[float] | None, str]:
    spacing = [abs(float(size)) for size in header["pixdim"][1:4]]
    has_sform, has_qform = int(header["sform_code"]) > 0, int(header["qform_code"]) > 0
    if has_void_sform(header):
        has_sform = False
        notes.append("the sform is all zeros; the qform is used")
    if not (has_sform or has_qform):
        notes.append(
            "unknown side: neither sform nor qform is set; axes are taken as right, anterior, superior; no positions"
        )
        return None, spacing if all(0 < size < np.inf for size in spacing) else None, "RAS"
    sform = _form(header, "sform") if has_sform else None
    qform = _form(header, "qform") if has_qform else None
    if sform is not None and qform is not None:
        _note_conflict(sform, qform, notes)
    chosen = sform if sform is not None else qform
    assert chosen is not None
    unit = {1: 1000.0, 3: 0.001}.get(int(header["xyzt_units"]) & 7, 1.0)  # metres, micrometres
    if unit != 1.0:
        notes.append(f"lengths in the header are converted to mm (factor {unit:g})")
        chosen = np.diag([unit, unit, unit, 1.0]) @ chosen
    return chosen, [size * unit for size in spacing], "LPS"


def has_void_sform(header: Any) -> bool:
    """Whether the sform is claimed but all zeros beside a qform, which then says where the scan lies."""
    claimed = int(header["sform_code"]) > 0 and int(header["qform_code"]) > 0
    return claimed and not np.any([header[f"srow_{axis}"][:3] for axis in "xyz"])


def _note_conflict(sform: NDArray[np.float64], qform: NDArray[np.float64], notes: list[str]) -> None:
    for matrix in (sform, qform):
        if np.abs(matrix).max() > MAX_MM or np.linalg.norm(matrix[:3, :3], axis=0).min() < 1e-6:
            return  # `assemble` says what is wrong with the one that is used
    words = orientation_of(sform), orientation_of(qform)
    if words[0] != words[1]:
        notes.append(f"unknown side: sform says {words[0]}, qform says {words[1]}; the sform is used")
    elif np.abs(sform[:3] - qform[:3]).max() > _SAME_PLACE_MM:
        notes.append("sform and qform give different positions; the sform is used")


def _form(header: Any, word: str) -> NDArray[np.float64]:
    """The sform or qform in LPS."""
    if header["pixdim"][0] == 0:
        header["pixdim"][0] = 1  # as the standard takes it
    try:
        matrix = np.asarray(getattr(header, f"get_{word}")(), dtype=np.float64)
    except (HeaderDataError, ValueError) as error:
        raise ScanError(f"the {word} is broken ({error}); fix the header") from None
    if not np.isfinite(matrix).all():
        raise ScanError(f"the {word} holds NaN or infinity; fix the header")
    return LPS_FROM_RAS @ matrix
