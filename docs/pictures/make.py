"""Make the README's picture: three of the eleven questions about one axial phantom, chosen by topic, not by success.

python docs/pictures/make.py
"""

import tempfile
from pathlib import Path

from slicesight.cli.demo import consult
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


def _suits(index: int) -> bool:
    """The first axial scan with two findings: one picture shows one scan."""
    truth = make_phantom(SEED, index).truth
    return truth.plane == "axial" and len(truth.findings) == 2


if __name__ == "__main__":
    main()
