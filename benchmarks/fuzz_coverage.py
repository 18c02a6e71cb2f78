"""Does coverage-guided fuzzing find a file that a reader answers with a traceback, a hang or other voxels?

    pip install atheris
    python benchmarks/fuzz_coverage.py [--readers nifti nrrd ...] [--cpu-minutes 60] [--at-a-time 12] [--keep FOLDER]

The mutated files start from the valid ones of fuzz_readers.py and fuzz_dicom.py; atheris (libFuzzer) keeps the inputs
that reach new branches of the readers, of nibabel and of pydicom, under FOLDER/corpus, and FOLDER/minutes.csv the
minutes of every reader: a stopped run goes on where it was, the reader with the fewest minutes first. Each reader runs
in its own process, which prints one JSON line. What counts as a find: an exception that is no InputError, a message of
several lines, a gibibyte of memory or 20 CPU seconds for one file, or, where a second reader exists (nibabel, numpy,
pydicom), a volume whose voxels differ from what the second reader says. Finds of one place in the code count once.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FrameType

sys.path.insert(0, str(Path(__file__).parent))
HANG_S, MEMORY_BYTES, MOST_FINDS = 20, 1 << 30, 20
DICOM = ("dicom", "dicom implicit", "dicom deflated", "dicom enhanced", "dicom pet", "dicom echoes", "dicom rle",
         "dicom jpeg", "dicom jpeg-ls", "dicom jpeg 2000")  # fmt: skip
READERS = (*DICOM, "nifti", "nifti.gz", "nrrd", "metaimage", "npy", "pictures", "zip")
COLUMNS = ("when", "reader", "cpu_minutes", "files", "volumes", "compared", "finds", "ended")


def fuzz(reader: str, minutes: float, keep: Path) -> None:
    """Never returns: libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=["slicesight.io", "slicesight.volumes", "nibabel", "pydicom"]):
        import nibabel  # noqa: F401
        import pydicom  # noqa: F401

        from slicesight.io.loading import read_volume

    import fuzz_dicom
    from fuzz_readers import seeds

    from slicesight.errors import InputError

    warnings.simplefilter("ignore")
    corpus = keep / "corpus" / reader.replace(" ", "_")
    corpus.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    (place / "seeds").mkdir()
    start = fuzz_dicom.seeds(reader) if reader in DICOM else seeds(reader)
    for index, content in enumerate(start):
        (place / "seeds" / str(index)).write_bytes(content)
    folder = place / "case"
    folder.mkdir()
    figures = {"reader": reader, "files": 0, "volumes": 0, "compared": 0, "finds": 0}
    seen: set[str] = set()
    began = _cpu_s()

    def finish() -> None:
        print(json.dumps(figures | {"cpu_minutes": round((_cpu_s() - began) / 60, 2)}), flush=True)
        shutil.rmtree(place)
        os._exit(int(figures["finds"] > 0))

    def found(where: str, why: str, content: bytes) -> None:
        if where in seen:
            return
        seen.add(where)
        figures["finds"] += 1
        name = f"{reader.replace(' ', '_')}_{abs(hash(content)):x}"
        (keep / name).write_bytes(content)
        (keep / f"{name}.txt").write_text(why)
        figures[f"find {figures['finds']}"] = f"{name}: {why.strip().splitlines()[-1][:200]}"
        if figures["finds"] >= MOST_FINDS:
            finish()

    def one(content: bytes) -> None:
        if _cpu_s() - began > 60 * minutes:
            finish()
        figures["files"] += 1
        path = _written(folder, reader, start, content)
        signal.setitimer(signal.ITIMER_VIRTUAL, HANG_S)
        try:
            volume = read_volume(path)
        except InputError as error:
            if "\n" in str(error) or "MemoryError" in str(error):
                found(str(error)[-40:], f"more than one line, or than a gibibyte: {error!r}", content)
            return
        except BaseException as error:
            own = [frame for frame in traceback.extract_tb(error.__traceback__) if "slicesight" in frame.filename]
            found(f"{type(error)} {own[-1].filename} {own[-1].lineno}", traceback.format_exc(), content)
            return
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        figures["volumes"] += 1
        expected = _second_reader(reader, path)
        if expected is not None:
            figures["compared"] += 1
            if not _agree(expected, _summary(volume.voxels)):
                said = f"voxels {_summary(volume.voxels)}, the second reader says {expected}; {volume.warnings}"
                found("other voxels", said, content)

    def change(content: bytes, max_size: int, seed: int) -> bytes:
        return fuzz_dicom.mutated(content, max_size, seed, bytewise=atheris.Mutate)

    signal.signal(signal.SIGVTALRM, _hang)
    own = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (own + MEMORY_BYTES,) * 2)
    limits = ["-max_len=65536", "-len_control=0", "-timeout=300", "-rss_limit_mb=6000", "-verbosity=0"]
    crashes = f"-artifact_prefix={keep}/{reader.replace(' ', '_')}_crash_"
    ways = {"custom_mutator": change} if reader in DICOM else {}
    limits += ["-mutate_depth=1"] if reader in DICOM else []
    atheris.Setup(["fuzz", *limits, crashes, str(corpus), str(place / "seeds")], one, **ways)
    atheris.Fuzz()


def _written(folder: Path, reader: str, start: list[bytes], content: bytes) -> Path:
    if reader.startswith("dicom"):
        for index, other in enumerate(start[:-1]):
            (folder / f"{index}.dcm").write_bytes(other)
        (folder / "mutated.dcm").write_bytes(content)
        return folder
    if reader == "pictures":
        (folder / "1.png").write_bytes(start[0])
        (folder / "2.png").write_bytes(content)
        return folder
    (folder / "scan").write_bytes(content)
    return folder / "scan"


def _second_reader(reader: str, path: Path) -> tuple | None:
    """The same summary by another reader, None where there is none or it refuses."""
    import numpy as np
    from fuzz_dicom import with_pydicom

    ways: dict[str, Callable[[], object]] = {"nifti": lambda: _nibabel(path), "npy": lambda: np.load(path)}
    if reader in DICOM:
        ways[reader] = lambda: with_pydicom(sorted(path.iterdir()))
    if reader not in ways:
        return None
    try:
        values = ways[reader]()
        return None if values is None else _summary(np.asarray(values, dtype=np.float32))
    except Exception:
        return None


def _nibabel(path: Path) -> object:
    import nibabel as nib

    content = path.read_bytes()
    kind = nib.Nifti1Image if content[344:347] in (b"n+1", b"ni1") else nib.Nifti2Image
    image = kind.from_bytes(content)
    if image.dataobj.offset < 348:
        raise ValueError("nibabel takes the header's own bytes for voxels where vox_offset is 0")
    return image.get_fdata(dtype="float32")


def _summary(values: object) -> tuple:
    """What no flip or permutation of axes changes."""
    import numpy as np

    array = np.asarray(values)
    array = array.reshape([length for length in array.shape if length != 1])
    low, high = float(array.min()), float(array.max())
    return tuple(sorted(array.shape)), low, high, float(np.median(array))


def _agree(one: tuple, other: tuple) -> bool:
    """To float32's rounding: some readers scale in float64."""
    import numpy as np

    return one[0] == other[0] and np.allclose(one[1:], other[1:], rtol=1e-5, atol=1e-6 * max(map(abs, one[1:])))


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _hang(signum: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"over {HANG_S} CPU seconds")


def minutes_of(table: Path) -> dict[str, float]:
    """CPU minutes that each reader had in all runs."""
    total = dict.fromkeys(READERS, 0.0)
    if table.exists():
        for row in csv.DictReader(table.read_text().splitlines()):
            total[row["reader"]] = total.get(row["reader"], 0.0) + float(row["cpu_minutes"])
    return total


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--readers", nargs="*", default=READERS, choices=READERS)
    parser.add_argument("--cpu-minutes", type=float, default=60, help="for each reader, in all runs together")
    parser.add_argument("--at-a-time", type=float, default=12, help="CPU minutes before the next reader has its turn")
    parser.add_argument("--keep", type=Path, default=Path("fuzz_failures"), help="folder for finds, inputs and minutes")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        fuzz(options.one, options.at_a_time, options.keep)
    failed, table = 0, options.keep / "minutes.csv"
    options.keep.mkdir(parents=True, exist_ok=True)
    if not table.exists():
        table.write_text(",".join(COLUMNS) + "\n")
    while True:
        had = minutes_of(table)
        reader = min(options.readers, key=lambda name: had[name])
        if (left := options.cpu_minutes - had[reader]) < 0.1:
            return failed
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, __file__, "--one", reader, "--at-a-time", str(min(left, options.at_a_time))]
        with (options.keep / "stderr.txt").open("wb") as said:
            run = subprocess.run(
                [*command, "--keep", str(options.keep)], stdout=subprocess.PIPE, stderr=said, check=False
            )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 60
        row = json.loads(run.stdout or "{}") | {"reader": reader, "cpu_minutes": round(spent, 2)}
        row |= {"when": f"{datetime.datetime.now():%Y-%m-%d %H:%M}", "ended": f"exit code {run.returncode}"}
        with table.open("a") as stream:
            csv.DictWriter(stream, COLUMNS, restval="", extrasaction="ignore").writerow(row)
        print(json.dumps(row), flush=True)
        if spent < 0.1 and run.returncode:
            return run.returncode
        failed |= int(run.returncode != 0)


if __name__ == "__main__":
    sys.exit(main())
