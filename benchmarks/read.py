"""How long does a scan take to the model grid, beside the usual libraries? Prints medians and ratios, one thread.

    python benchmarks/read.py [--slices 300] [--rows 512] [--repeats 5] [--json FILE|-]

Runs are interleaved, so that a busy machine slows all of them alike; ratios are of medians over the same rounds.
CPU seconds are given beside wall seconds, since only they mean something on a machine that does other work too.
grid: an int16 scan in memory, ours against MONAI CropForeground + Resize(anti_aliasing=True).
nii.gz, dicom: reading alone and reading with the grid, ours against SimpleITK's and nibabel's reading.
"""

from __future__ import annotations

import os

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import argparse
import json
import statistics
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk  # noqa: N813

from slicesight.io.loading import read_volume
from slicesight.io.writers import write_dicom, write_nifti
from slicesight.volumes.grid import GridSpec, to_grid
from slicesight.volumes.volume import Volume


def body(num_slices: int, rows: int) -> Volume:
    """A noisy trunk in air: compresses about as a CT does."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : rows * 1j]
    inside = (x / 0.85) ** 2 + (y / 0.6) ** 2 < 1
    voxels = np.empty((num_slices, rows, rows), np.float32)
    for index in range(num_slices):
        plane = np.where(inside, 40 + 60 * np.sin(9 * x + index / 20) * np.cos(7 * y), -1000)
        voxels[index] = np.rint(plane + rng.normal(0, 12, plane.shape))
    affine = np.array([[0, 0, 0.75, -190], [0, 0.75, 0, -190], [1.25, 0, 0, 0], [0, 0, 0, 1.0]])
    return Volume(voxels=voxels, affine_lps=affine, spacing_mm=(1.25, 0.75, 0.75), modality="CT", unit="HU")


def timed(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, dict[str, float]]:
    """Median wall and CPU seconds of each, the first round warms up and does not count.

    Every round starts with another one, since whoever comes after a large free pays for fresh pages.
    """
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for round_number in range(repeats + 1):
        names = list(runs)
        for name in names[round_number % len(names) :] + names[: round_number % len(names)]:
            run = runs[name]
            started = time.perf_counter(), time.process_time()
            run()
            if round_number:
                seconds[name].append((time.perf_counter() - started[0], time.process_time() - started[1]))
    return {
        name: {kind: statistics.median(pair[k] for pair in pairs) for k, kind in enumerate(("wall_s", "cpu_s"))}
        for name, pairs in seconds.items()
    }


def grid_figures(scan: Volume, repeats: int) -> dict[str, object]:
    import monai.transforms as mt
    import torch

    torch.set_num_threads(1)
    whole = Volume(voxels=scan.voxels.astype(np.int16), unit="HU", modality="CT")
    crop = mt.CropForeground(select_fn=lambda hu: hu > -500)
    resize = mt.Resize((32, 256, 256), anti_aliasing=True, mode="trilinear")
    runs = {
        "slicesight": lambda: to_grid(whole, GridSpec()),
        "monai": lambda: resize(crop(torch.from_numpy(whole.voxels)[None].float())),
    }
    figures = timed(runs, repeats)
    tracemalloc.start()
    to_grid(whole, GridSpec())
    extra_gib = tracemalloc.get_traced_memory()[1] / 2**30
    tracemalloc.stop()
    ratios = {kind: figures["monai"][kind] / figures["slicesight"][kind] for kind in ("wall_s", "cpu_s")}
    return {**figures, "monai_over_slicesight": ratios, "extra_gib": extra_gib}


def file_figures(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, object]:
    figures = timed(runs, repeats)
    result: dict[str, object] = dict(figures)
    for name in runs:
        if name.startswith("slicesight"):
            result[f"{name}_over_fastest_other"] = {
                kind: figures[name][kind] / min(v[kind] for n, v in figures.items() if not n.startswith("slicesight"))
                for kind in ("wall_s", "cpu_s")
            }
    return result


def read_series(folder: Path) -> sitk.Image:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return reader.Execute()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--without-grid", action="store_true", help="only the files; MONAI takes minutes")
    parser.add_argument("--json", metavar="FILE|-")
    options = parser.parse_args()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    scan = body(options.slices, options.rows)
    figures: dict[str, object] = {"shape": list(scan.shape), "repeats": options.repeats}
    figures["load_at_start"] = os.getloadavg()[0]
    if not options.without_grid:
        figures["grid"] = grid_figures(scan, options.repeats)
    with tempfile.TemporaryDirectory() as place:
        path, folder = Path(place) / "scan.nii.gz", Path(place) / "series"
        write_nifti(scan, path)
        write_dicom(scan, folder)
        del scan
        figures["nii_gz_mib"] = path.stat().st_size / 2**20
        runs: dict[str, Callable[[], object]] = {
            "slicesight": lambda: read_volume(path),
            "slicesight_with_grid": lambda: to_grid(read_volume(path), GridSpec()),
            "simpleitk": lambda: sitk.GetArrayFromImage(sitk.ReadImage(str(path))),
            "nibabel": lambda: np.asarray(nib.load(path).dataobj),
        }
        figures["nii_gz"] = file_figures(runs, options.repeats)
        runs = {
            "slicesight": lambda: read_volume(folder),
            "slicesight_with_grid": lambda: to_grid(read_volume(folder), GridSpec()),
            "simpleitk": lambda: sitk.GetArrayFromImage(read_series(folder)),
        }
        figures["dicom"] = file_figures(runs, options.repeats)
    figures["load_at_end"] = os.getloadavg()[0]
    text = json.dumps(figures, indent=1)
    if options.json and options.json != "-":
        Path(options.json).write_text(text + "\n")
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
