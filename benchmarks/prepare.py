"""What does preparing volumes cost, beside MONAI, with one and two processes, and in memory? The last line is JSON.

    python benchmarks/prepare.py [--scans 24] [--slices 160] [--rows 512] [--rounds 3] [--ray]

monai: the same nii.gz files one by one, ours end to end (digest, read, crop, window, resize, Parquet) against MONAI's
    LoadImage, CropForeground, ScaleIntensityRange, Resize(anti_aliasing=True) and np.save; limit: reading alone.
workers: one process against two. Limits: 2, and what this machine gives two busy loops in the same minutes. On a busy
    machine only `by_cpu` means something: CPU of one process over half the CPU of both and the parent.
memory: peak resident MiB over 20 and 80 small phantoms, each in a fresh process; flat means a ratio near 1.
reading: one case by id in random order, against np.load of an .npy per case.
Rounds are interleaved and medians are taken.
"""

from __future__ import annotations

import os

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import argparse
import json
import multiprocessing
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from read import body

from slicesight.data.manifest import Case, read_manifest, write_manifest
from slicesight.data.preprocess import prepare_volumes
from slicesight.data.store import open_prepared
from slicesight.io.loading import read_volume
from slicesight.io.writers import write_nifti
from slicesight.phantoms.folder import write_phantoms
from slicesight.volumes.grid import GridSpec

FRESH = """
import sys
from slicesight.conversations.preparation import prepare_volumes
from slicesight.volumes import GridSpec
manifest, out, workers, ray = sys.argv[1:]
prepare_volumes(manifest, out, spec=GridSpec(), workers=int(workers), ray_address=ray or None)
"""
DISTINCT = 4
"""Different scans on disk; the rest are further names of them, prepared each on its own."""


def named_again(folder: Path, files: list[Path], count: int) -> Path:
    """A manifest of `count` cases over a few files, each under a name of its own."""
    cases = []
    for number in range(count):
        file = files[number % len(files)]
        name = f"scan_{number:03d}.nii.gz"
        os.link(file, folder / name)
        cases.append(Case(id=f"scan {number}", volume=name, conversations=()))
    write_manifest(cases, folder / "manifest.jsonl")
    return folder / "manifest.jsonl"


def clocks() -> tuple[float, float]:
    """Wall seconds, and CPU seconds of this process and of those it has seen end."""
    own, ended = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter(), own.ru_utime + own.ru_stime + ended.ru_utime + ended.ru_stime


def interleaved(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, dict[str, float]]:
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for number in range(rounds):
        names = list(runs)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            wall, cpu = clocks()
            runs[name]()
            ended = clocks()
            seconds[name].append((ended[0] - wall, ended[1] - cpu))
    return {
        name: {
            kind: round(statistics.median(pair[k] for pair in pairs), 3) for k, kind in enumerate(("wall_s", "cpu_s"))
        }
        for name, pairs in seconds.items()
    }


def monai_preparation(files: list[Path], out: Path) -> Callable[[], None]:
    import monai.transforms as mt
    import torch

    torch.set_num_threads(1)
    steps = mt.Compose(
        [
            mt.LoadImage(image_only=True, ensure_channel_first=True),
            mt.CropForeground(select_fn=lambda hu: hu > -500),
            mt.ScaleIntensityRange(a_min=-160, a_max=240, b_min=0, b_max=1, clip=True),
            mt.Resize((256, 256, 32), anti_aliasing=True, mode="trilinear"),
        ]
    )

    def run() -> None:
        for number, file in enumerate(files):
            voxels = steps(str(file))[0].numpy()
            np.save(out / f"{number}.npy", np.rint(voxels * 255).astype(np.uint8))

    return run


def against_monai(manifest: Path, place: Path, rounds: int) -> dict[str, object]:
    files = [manifest.parent / case.volume for case in read_manifest(manifest)]
    (place / "npy").mkdir()

    def ours() -> None:
        shutil.rmtree(place / "ours", ignore_errors=True)
        prepare_volumes(manifest, place / "ours", spec=GridSpec())

    runs = {
        "slicesight": ours,
        "monai": monai_preparation(files, place / "npy"),
        "reading_alone": lambda: [read_volume(file) for file in files],
    }
    runs["monai"]()  # its libraries are loaded on first use
    figures = interleaved(runs, rounds)
    return {
        "num_scans": len(files),
        **figures,
        "monai_over_slicesight": ratio(figures["monai"], figures["slicesight"]),
        "limit_monai_over_reading_alone": ratio(figures["monai"], figures["reading_alone"]),
    }


def ratio(one: dict[str, float], other: dict[str, float]) -> dict[str, float]:
    return {kind: round(one[kind] / other[kind], 2) for kind in one}


def busy(loops: int) -> None:
    """What a scan's preparation mostly is: passes over a few MB and small matrix products."""
    values, weights = np.ones((64, 256, 256), np.float32), np.ones((32, 64), np.float32)
    for _ in range(loops):
        (weights @ values.reshape(64, -1)).clip(0, 1)


def busy_processes(count: int, loops: int) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=busy, args=(loops // count,)) for _ in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()


def worker_figures(manifest: Path, place: Path, rounds: int, *, with_ray: bool) -> dict[str, object]:
    def run(workers: int, ray_address: str | None = None) -> None:
        """In a fresh process, as the command line is, so that its workers load no more than they need."""
        shutil.rmtree(place / "out", ignore_errors=True)
        arguments = [str(manifest), str(place / "out"), str(workers), ray_address or ""]
        subprocess.run([sys.executable, "-c", FRESH, *arguments], check=True)

    runs = {
        "one": lambda: run(1),
        "two": lambda: run(2),
        "busy_one": lambda: busy_processes(1, 400),
        "busy_two": lambda: busy_processes(2, 400),
    }
    if with_ray:
        runs["ray_two"] = lambda: run(2, "local")
    figures = interleaved(runs, rounds)
    one, two = figures["one"], figures["two"]
    return {
        "num_scans": len(read_manifest(manifest)),
        **figures,
        "one_over_two": round(one["wall_s"] / two["wall_s"], 2),
        "by_cpu": round(one["cpu_s"] / (two["cpu_s"] / 2), 2),
        "limit_ideal": 2.0,
        "limit_this_machine_now": round(figures["busy_one"]["wall_s"] / figures["busy_two"]["wall_s"], 2),
    }


def memory_of(count: int, place: Path, workers: int, *, ray: bool) -> dict[str, float]:
    command = [
        sys.executable,
        __file__,
        "--measure-memory",
        str(place / f"phantoms_{count}"),
        "--workers",
        str(workers),
    ]
    found = subprocess.run([*command, *(["--ray"] if ray else [])], check=True, capture_output=True, text=True)
    return json.loads(found.stdout.splitlines()[-1])


def measure_memory(folder: Path, workers: int, *, ray: bool) -> None:
    """Prepare in this fresh process and print its peak and its largest worker's."""
    out = folder.with_name(f"{folder.name}_out_{workers}_{ray}")
    prepare_volumes(
        folder / "manifest.jsonl", out, spec=GridSpec(), workers=workers, ray_address="local" if ray else None
    )
    peaks = {
        "parent_mib": round(own_peak_mib(), 1),
        "largest_worker_mib": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024, 1),
    }
    shutil.rmtree(out)
    sys.stdout.write(json.dumps(peaks) + "\n")


def own_peak_mib() -> float:
    """From /proc, since the peak that getrusage gives counts what the starting process held before."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def memory_figures(place: Path, *, with_ray: bool) -> dict[str, object]:
    write_phantoms(place / "phantoms", count=DISTINCT, seed=5)
    files = sorted((place / "phantoms" / "volumes").iterdir())
    for count in (20, 80):
        (place / f"phantoms_{count}").mkdir()
        named_again(place / f"phantoms_{count}", files, count)
    figures: dict[str, object] = {}
    for name, workers, ray in (("one", 1, False), ("two", 2, False), ("ray", 2, True)):
        if ray and not with_ray:
            continue
        few, many = (memory_of(count, place, workers, ray=ray) for count in (20, 80))
        kinds = [kind for kind in few if kind == "parent_mib" or (workers > 1 and not ray)]
        figures[name] = {"20": few, "80": many, "80_over_20": {k: round(many[k] / few[k], 2) for k in kinds}}
    return figures


def reading_figures(folder: Path, place: Path, rounds: int) -> dict[str, object]:
    prepared = open_prepared(folder)
    ids = [case.id for case in prepared.cases] * 4
    random.Random(0).shuffle(ids)
    (place / "each").mkdir()
    for number, case in enumerate(prepared.cases):
        np.save(place / "each" / f"{case.id}.npy", prepared.voxels(case.id))
        assert prepared.voxels(case.id).nbytes <= 2.1e6, number
    runs = {
        "slicesight": lambda: [prepared.voxels(case_id) for case_id in ids],
        "npy": lambda: [np.load(place / "each" / f"{case_id}.npy") for case_id in ids],
    }
    figures = interleaved(runs, rounds)
    stored = sum(shard.num_bytes for shard in prepared.index.shards) / len(prepared)
    unchanged = time.perf_counter()
    return {
        "ms_per_case": {name: round(1e3 * f["wall_s"] / len(ids), 2) for name, f in figures.items()},
        "cpu_ms_per_case": {name: round(1e3 * f["cpu_s"] / len(ids), 2) for name, f in figures.items()},
        "megabytes_per_case": {"stored": round(stored / 1e6, 2), "npy": round(32 * 256 * 256 / 1e6, 2)},
        "num_prepared_again": prepare_volumes(folder / "manifest.jsonl", folder, spec=GridSpec()).num_prepared,
        "unchanged_run_s": round(time.perf_counter() - unchanged, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=int, default=24)
    parser.add_argument("--slices", type=int, default=160)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ray", action="store_true", help="also a local Ray cluster")
    parser.add_argument("--only", choices=("monai", "workers", "memory"), help="one part")
    parser.add_argument("--measure-memory", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--workers", type=int, default=1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure_memory:
        measure_memory(options.measure_memory, options.workers, ray=options.ray)
        return
    figures: dict[str, object] = {"scan": [options.slices, options.rows, options.rows], "rounds": options.rounds}
    figures["load_at_start"] = round(os.getloadavg()[0], 1)
    with tempfile.TemporaryDirectory() as text:
        place = Path(text)
        if options.only != "memory":
            (place / "all").mkdir()
            (place / "few").mkdir()
            files = []
            for number in range(DISTINCT):
                files.append(place / f"{number}.nii.gz")
                write_nifti(body(options.slices - 5 * number, options.rows), files[-1])
            few, whole = named_again(place / "few", files, DISTINCT), named_again(place / "all", files, options.scans)
        if options.only in (None, "monai"):
            figures["monai"] = against_monai(few, place, options.rounds)
            figures["reading"] = reading_figures(place / "ours", place, options.rounds)
        if options.only in (None, "workers"):
            figures["workers"] = worker_figures(whole, place, options.rounds, with_ray=options.ray)
        if options.only in (None, "memory"):
            figures["memory"] = memory_figures(place, with_ray=options.ray)
    figures["load_at_end"] = round(os.getloadavg()[0], 1)
    for name, found in figures.items():
        sys.stderr.write(f"{name}: {json.dumps(found, indent=1)}\n")
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
