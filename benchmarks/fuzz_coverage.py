"""Does coverage-guided fuzzing find a file that a reader answers with a traceback, a hang or other voxels?

    pip install atheris
    python benchmarks/fuzz_coverage.py [--readers nifti nrrd ...] [--cpu-minutes 60] [--keep FOLDER]

The mutated files start from the valid ones of fuzz_readers.py; atheris (libFuzzer) keeps the inputs that reach new
branches of the readers, of nibabel and of pydicom. Each reader runs in its own process and ends at the first find or
after its CPU minutes; it prints one JSON line. What counts as a find: an exception that is no InputError, a message of
several lines, 20 CPU seconds for one file, or, where a second reader exists (nibabel, numpy, pydicom), a volume whose
voxels differ from what the second reader says.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FrameType

sys.path.insert(0, str(Path(__file__).parent))
HANG_S = 20
READERS = ("nifti", "nifti.gz", "nrrd", "metaimage", "npy", "pictures", "zip", "dicom", "dicom rle", "dicom jpeg-ls")


def fuzz(reader: str, minutes: float, keep: Path) -> None:
    """Never returns: libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=["slicesight.io", "slicesight.volumes", "nibabel", "pydicom"]):
        import nibabel  # noqa: F401
        import pydicom  # noqa: F401

        from slicesight.io.loading import read_volume

    from fuzz_readers import seeds

    from slicesight.errors import InputError

    warnings.simplefilter("ignore")
    place = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    (place / "seeds").mkdir()
    start = seeds(reader)
    for index, content in enumerate(start):
        (place / "seeds" / str(index)).write_bytes(content)
    folder = place / "case"
    folder.mkdir()
    figures = {"reader": reader, "files": 0, "volumes": 0, "compared": 0, "finds": 0}
    began = _cpu_s()

    def finish(why: str, content: bytes | None = None) -> None:
        if content is not None:
            figures["finds"] += 1
            keep.mkdir(parents=True, exist_ok=True)
            name = f"{reader.replace(' ', '_')}_{figures['files']}"
            (keep / name).write_bytes(content)
            (keep / f"{name}.txt").write_text(why)
            figures["first"] = why.strip().splitlines()[-1]
        print(json.dumps(figures | {"cpu_s": round(_cpu_s() - began)}), flush=True)
        os._exit(int(figures["finds"] > 0))

    def one(content: bytes) -> None:
        if _cpu_s() - began > 60 * minutes:
            finish("time is over")
        figures["files"] += 1
        path = _written(folder, reader, start, content)
        signal.setitimer(signal.ITIMER_VIRTUAL, HANG_S)
        try:
            volume = read_volume(path)
        except InputError as error:
            if "\n" in str(error):
                finish(f"more than one line: {error!r}", content)
            return
        except BaseException:
            finish(traceback.format_exc(), content)
            return
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        figures["volumes"] += 1
        expected = _second_reader(reader, path)
        if expected is not None:
            figures["compared"] += 1
            if not _agree(expected, _summary(volume.voxels)):
                finish(f"voxels {_summary(volume.voxels)}, the second reader says {expected}", content)

    signal.signal(signal.SIGVTALRM, _hang)
    limits = ["-max_len=65536", "-len_control=0", "-timeout=300", "-rss_limit_mb=6000", "-verbosity=0"]
    atheris.Setup(["fuzz", *limits, str(place / "new"), str(place / "seeds")], one)
    (place / "new").mkdir()
    atheris.Fuzz()


def _written(folder: Path, reader: str, start: list[bytes], content: bytes) -> Path:
    if reader.startswith("dicom"):
        (folder / "0.dcm").write_bytes(start[0])
        (folder / "1.dcm").write_bytes(content)
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

    ways: dict[str, Callable[[], object]] = {"nifti": lambda: _nibabel(path), "npy": lambda: np.load(path)}
    if reader not in ways:
        return None
    try:
        values = np.asarray(ways[reader](), dtype=np.float32)
    except Exception:
        return None
    return _summary(values)


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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--readers", nargs="*", default=READERS)
    parser.add_argument("--cpu-minutes", type=float, default=60)
    parser.add_argument("--keep", type=Path, default=Path("fuzz_failures"), help="folder for files that are finds")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        fuzz(options.one, options.cpu_minutes, options.keep)
    failed = 0
    for reader in options.readers:
        started = time.perf_counter()
        command = [sys.executable, __file__, "--one", reader, "--cpu-minutes", str(options.cpu_minutes)]
        run = subprocess.run([*command, "--keep", str(options.keep)], stderr=subprocess.DEVNULL, check=False)
        if run.returncode not in (0, 1):
            print(json.dumps({"reader": reader, "crashed": run.returncode, "wall_s": time.perf_counter() - started}))
        failed |= run.returncode
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
