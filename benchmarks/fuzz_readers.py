"""Does any mutated file make a reader crash, hang or swell? Prints counts per reader; exit code 1 if one does.

    python benchmarks/fuzz_readers.py [--count 10000] [--seed 0] [--readers nifti dicom ...] [--json FILE]

Every file starts as a valid small scan; mutations flip, cut, insert and repeat bytes and write border values into
headers. A case may only end as a volume or an InputError. Each reader runs in its own process, so that a crash inside a
C codec is seen; a case over 20 s counts as a hang. Files that fail are kept and named.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import multiprocessing
import os
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import SimpleITK as sitk  # noqa: N813
from PIL import Image
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from slicesight.errors import InputError
from slicesight.io.loading import read_volume
from slicesight.io.writers import write_dicom
from slicesight.volumes.grid import GridSpec, to_grid
from slicesight.volumes.volume import Volume

HANG_S = 20
SPEC = GridSpec(num_slices=4, height=8, width=8)
BORDERS = [0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1]
WORDS = [b"-1", b"0", b"nan", b"inf", b"99999999999", b"1e400", b"../", b"\\", b"\n", b"\0"]


def scan(shape: tuple[int, int, int] = (3, 40, 36)) -> Volume:
    voxels = np.random.default_rng(0).integers(-1000, 1000, shape).astype(np.float32)
    affine = np.array([[0, 0, 0.75, -40], [0, 0.75, 0, 12], [2.5, 0, 0, 100], [0, 0, 0, 1.0]])
    return Volume(voxels=voxels, affine_lps=affine, spacing_mm=(2.5, 0.75, 0.75), modality="CT", unit="HU")


def seeds(reader: str) -> list[bytes]:
    """Valid files to start from."""
    voxels = np.random.default_rng(0).integers(-1000, 1000, (5, 6, 7)).astype(np.int16)
    if reader in ("nifti", "nifti.gz"):
        kinds = (nib.Nifti1Image, nib.Nifti2Image)
        affine = np.diag([-1, -1, 2, 1.0])
        return [kind(values, affine).to_bytes() for kind in kinds for values in (voxels, voxels.astype(np.float32))]
    if reader == "npy":
        return [saved(voxels), saved(voxels.astype(np.float32)[None]), saved(np.asfortranarray(voxels))]
    if reader in ("nrrd", "metaimage"):
        suffix = ".nrrd" if reader == "nrrd" else ".mha"
        return [with_simpleitk(voxels, suffix, packed) for packed in (True, False)]
    if reader == "pictures":
        found = []
        for kind in ("PNG", "JPEG"):
            stream = io.BytesIO()
            Image.fromarray(voxels[0].astype(np.uint8)).save(stream, kind)
            found.append(stream.getvalue())
        return found
    if reader == "zip":
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a/scan.nii", nib.Nifti1Image(voxels, np.eye(4)).to_bytes())
        return [stream.getvalue()]
    return dicom_seeds(reader)


def dicom_seeds(reader: str) -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        write_dicom(scan(), Path(folder) / "a")
        plain = [file.read_bytes() for file in sorted((Path(folder) / "a").iterdir())]
    syntax = {"dicom jpeg 2000": JPEG2000Lossless, "dicom jpeg-ls": JPEGLSLossless, "dicom rle": RLELossless}.get(
        reader
    )
    if reader == "dicom jpeg":
        return [jpeg_lossless(content) for content in plain[:2]]
    if syntax is None:
        return plain[:2]
    packed = []
    for content in plain[:2]:
        dataset = pydicom.dcmread(io.BytesIO(content))
        dataset.compress(syntax, generate_instance_uid=False)
        stream = io.BytesIO()
        dataset.save_as(stream)
        packed.append(stream.getvalue())
    return packed


def jpeg_lossless(content: bytes) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        source, target = f"{folder}/a.dcm", f"{folder}/b.dcm"
        Path(source).write_bytes(content)
        writer = sitk.ImageFileWriter()
        writer.SetImageIO("GDCMImageIO")
        writer.KeepOriginalImageUIDOn()
        writer.UseCompressionOn()
        writer.SetCompressor("JPEG")
        writer.SetFileName(target)
        image = sitk.ReadImage(source)
        writer.Execute(sitk.Cast(image + 2000, sitk.sitkUInt16))
        dataset, original = pydicom.dcmread(target), pydicom.dcmread(source)
        for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "SeriesInstanceUID", "Modality"):
            setattr(dataset, keyword, original[keyword].value)
        stream = io.BytesIO()
        dataset.save_as(stream)
        return stream.getvalue()


def saved(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def with_simpleitk(voxels: np.ndarray, suffix: str, packed: bool) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        sitk.WriteImage(sitk.GetImageFromArray(voxels), f"{folder}/a{suffix}", useCompression=packed)
        return Path(f"{folder}/a{suffix}").read_bytes()


def mutated(rng: np.random.Generator, content: bytes) -> bytes:
    """One to four mutations, most of them in the first kilobyte, where headers are."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 5))):
        end = len(data) if rng.random() < 0.3 else min(len(data), 1024)
        at = int(rng.integers(0, max(end, 1)))
        length = int(rng.choice([1, 2, 4, 8, 16, 64, 256]))
        kind = rng.integers(8)
        if kind == 0:
            data[at : at + 1] = bytes([(data[at] if at < len(data) else 0) ^ (1 << int(rng.integers(8)))])
        elif kind == 1:
            data[at : at + length] = rng.bytes(length)
        elif kind == 2:
            data[at : at + length] = bytes([int(rng.choice([0, 255]))]) * length
        elif kind == 3:
            width = int(rng.choice([1, 2, 4, 8]))
            value = BORDERS[int(rng.integers(len(BORDERS)))] & ((1 << 8 * width) - 1)
            data[at : at + width] = value.to_bytes(width, "little" if rng.random() < 0.7 else "big")
        elif kind == 4:
            data[at : at + int(rng.integers(0, 6))] = WORDS[int(rng.integers(len(WORDS)))]
        elif kind == 5:
            del data[at : at + length]
        elif kind == 6:
            data[at:at] = data[at : at + length]
        elif rng.random() < 0.3:
            del data[at:]
        else:
            data[at : at + 4] = struct.pack("<f", float(rng.choice([np.nan, np.inf, -1, 0, 1e30, 1e-30])))
    return bytes(data)


def cases(reader: str, rng: np.random.Generator, folder: Path, count: int) -> Iterator[Path]:
    """Paths to read, one after the other in the same place."""
    start = seeds(reader)
    for index in range(count):
        content = mutated(rng, start[index % len(start)])
        if reader.startswith("dicom"):
            (folder / "0.dcm").write_bytes(start[0])
            (folder / "1.dcm").write_bytes(mutated(rng, start[1]))
            yield folder
        elif reader == "pictures":
            seed = index % len(start)
            (folder / "1.png").write_bytes(start[seed])
            (folder / "2.png").write_bytes(content)
            yield folder
        else:
            if reader == "nifti.gz" and index % 4:
                content = gzip.compress(content, 1)
            elif reader == "nifti.gz":
                content = mutated(rng, gzip.compress(start[index % len(start)], 1))
            (folder / "scan").write_bytes(content)
            yield folder / "scan"


def fuzz(reader: str, count: int, seed: int, keep: Path, results: multiprocessing.Queue) -> None:
    """Run in a process of its own."""
    rng = np.random.default_rng([seed, sum(reader.encode())])
    signal.signal(signal.SIGALRM, _hang)
    warnings.simplefilter("error")  # a remark on stderr is a failure too
    said = tempfile.TemporaryFile()  # noqa: SIM115 - stays open to the end of the process
    os.dup2(said.fileno(), 2)
    figures = {"reader": reader, "count": 0, "volumes": 0, "refused": 0, "failed": 0, "slowest_s": 0.0}
    baseline = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as place:
        folder = Path(place) / "case"
        folder.mkdir()
        for path in cases(reader, rng, folder, count):
            started = time.process_time()
            signal.alarm(3 * HANG_S)
            try:
                volume = read_volume(path)
                json.dumps(to_grid(volume, SPEC).receipt)
                figures["volumes"] += 1
            except InputError as error:
                figures["refused"] += 1
                if "\n" in str(error):
                    _keep(keep, reader, figures, folder, f"more than one line: {error!r}")
            except BaseException:
                _keep(keep, reader, figures, folder, traceback.format_exc())
            finally:
                signal.alarm(0)
            figures["count"] += 1
            seconds = round(time.process_time() - started, 3)
            figures["slowest_s"] = max(figures["slowest_s"], seconds)
            if seconds > HANG_S:
                _keep(keep, reader, figures, folder, f"{seconds} s")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    figures["stderr_bytes"] = said.seek(0, io.SEEK_END)
    figures["failed"] += int(figures["stderr_bytes"] > 0) + int(peak > 1 << 20)
    results.put(figures | {"peak_mib": peak // 1024, "above_start_mib": (peak - baseline) // 1024})


def _hang(signum: int, frame: object) -> None:
    raise TimeoutError(f"over {HANG_S} s")


def _keep(keep: Path, reader: str, figures: dict, folder: Path, why: str) -> None:
    figures["failed"] += 1
    if figures["failed"] <= 20:
        target = keep / f"{reader.replace(' ', '_')}_{figures['count']}"
        shutil.copytree(folder, target, dirs_exist_ok=True)
        (target / "why.txt").write_text(why)


READERS = ("nifti", "nifti.gz", "nrrd", "metaimage", "npy", "pictures", "zip", "dicom", "dicom rle", "dicom jpeg",
           "dicom jpeg-ls", "dicom jpeg 2000")  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--readers", nargs="*", default=READERS, choices=READERS)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--keep", type=Path, default=Path("fuzz_failures"), help="folder for files that fail")
    options = parser.parse_args()
    rows = []
    for reader in options.readers:
        results: multiprocessing.Queue = multiprocessing.Queue()
        arguments = (reader, options.count, options.seed, options.keep, results)
        process = multiprocessing.Process(target=fuzz, args=arguments)
        started = time.perf_counter()
        process.start()
        process.join()
        row = results.get() if process.exitcode == 0 else {"reader": reader, "failed": 1, "crashed": process.exitcode}
        row["minutes"] = round((time.perf_counter() - started) / 60, 2)
        rows.append(row)
        print(json.dumps(row), flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    return int(any(row["failed"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
