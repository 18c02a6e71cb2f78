"""How are report.png and real.png made? With what they show: a phantom, and a real scan that may be shown.

report.png: three of the eleven questions about one axial phantom, chosen by topic, not by success. real.png: what the
demonstration asks of a corner of a brain MR, which nibabel brings for its own tests.

    python docs/pictures/make.py
"""

import tempfile
from pathlib import Path

from slicesight.cli.demo import ask_real, consult, real_sample
from slicesight.models.shipped import DEFAULT_MODEL
from slicesight.phantoms.folder import write_phantom
from slicesight.phantoms.rendering import make_phantom
from slicesight.reports.ask import load_quietly

SEED = 20_000
SHOWN = (("report", "report"), ("open", "phase"), ("open", "location"))


def main() -> None:
    index = next(i for i in range(100) if _suits(i))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("volumes", "labels"):
            (folder / part).mkdir()
        case = write_phantom(folder, seed=SEED, index=index)
        case = case.model_copy(
            update={"conversations": tuple(pair for pair in case.conversations if (pair.task, pair.topic) in SHOWN)}
        )
        consultation = consult(load_quietly("phantom-tiny"), case, folder=folder)
        consultation.write_png(Path(__file__).with_name("report.png"))
    sample = real_sample()
    assert sample is not None, "nibabel is installed without its tests' data"
    ask_real(load_quietly(DEFAULT_MODEL), sample).write_png(Path(__file__).with_name("real.png"))


def _suits(index: int) -> bool:
    """The first axial scan with two findings: one picture shows one scan."""
    truth = make_phantom(SEED, index).truth
    return truth.plane == "axial" and len(truth.findings) == 2


if __name__ == "__main__":
    main()
