"""What can this do? Two synthetic scans, as NIfTI and as DICOM, are asked and compared with the known truth.

Then a real one, the corner of a brain MR that nibabel brings for its own tests: unlike the whole brains that the model
for real scans was taught, so that it holds back what it would say.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from slicesight.data.manifest import Case, Conversation
from slicesight.errors import InputError
from slicesight.inference.answers import Answer
from slicesight.inference.predictor import Predictor
from slicesight.io.loading import read_volume
from slicesight.models.shipped import DEFAULT_MODEL
from slicesight.phantoms.folder import ScanFormat, write_phantom
from slicesight.reports.ask import AnswerReport, load_quietly, print_report, write_files
from slicesight.reports.evidence import summarise
from slicesight.reports.terminal import progress_bar, scan_header
from slicesight.reports.truth import judge

SCANS: tuple[ScanFormat, ...] = ("nifti", "dicom")
MARKER = ".slicesight-demo"
REAL_QUESTIONS = ("Which kind of scan is this?", "Is the mandible in view?")


def run_demo(folder: Path, *, model: str, seed: int, real_model: str = DEFAULT_MODEL) -> None:
    """Make, ask, compare and write reports; ends by naming the files to open.

    Raises:
        InputError: the folder holds something that an earlier demo did not make.
    """
    console = Console()
    _clear(folder)
    console.print(f"Two synthetic CT scans whose truth is known (seed {seed}), answered by {model}.\n", highlight=False)
    with console.status(f"loading {model}"):
        predictor = load_quietly(model)
    num_right = num_asked = 0
    for index, scan_format in enumerate(SCANS):
        (folder / "volumes").mkdir(parents=True, exist_ok=True)
        (folder / "labels").mkdir(exist_ok=True)
        with console.status(f"painting a scan, as {scan_format}"):
            case = write_phantom(folder, seed=seed, index=index, scan_format=scan_format)
        report = consult(predictor, case, folder=folder)
        console.print(f"{folder / case.volume}", style="bold", highlight=False, soft_wrap=True)
        console.print(scan_header(report.title, report.reading))
        console.print(_comparison(case.conversations, report))
        truths = [truth for truth in report.truths if truth is not None]
        num_right += sum(truth.is_right for truth in truths)
        num_asked += len(truths)
        base = folder / scan_format
        write_files(report, [(kind, base.with_suffix(f".{kind}")) for kind in ("json", "html", "png")])
    console.print(f"{num_right} of {num_asked} answers are right.\n", style="bold", highlight=False)
    real = real_sample()
    if real is not None:
        with console.status(f"loading {real_model}"):
            predictor = load_quietly(real_model)
        console.print(f"A corner of a real brain MR, asked of {real_model}:", style="bold", highlight=False)
        report = ask_real(predictor, real)
        print_report(console, report)
        write_files(report, [("html", folder / "real.html"), ("png", folder / "real.png")])
    console.print("\nOpen:", style="bold")
    for name, what in (
        ("html", "the report, in a browser"),
        ("png", "the same as a picture"),
        ("json", "for programs"),
    ):
        names = [*SCANS, *(["real"] if real is not None and name != "json" else [])]
        files = ", ".join(str(folder / f"{base}.{name}") for base in names)
        console.print(f"  {files}  ({what})", highlight=False, soft_wrap=True)


def real_sample() -> Path | None:
    """nibabel's small brain MR (33 x 41 x 25 voxels of 2 mm); None where its tests are not installed."""
    found = find_spec("nibabel")
    if found is None or found.origin is None:
        return None
    sample = Path(found.origin).parent / "tests" / "data" / "anatomical.nii"
    return sample if sample.is_file() else None


def ask_real(predictor: Predictor, scan: Path) -> AnswerReport:
    """What the shipped model for real scans says about one: what it is, and what it must not claim to know."""
    volume = read_volume(scan)
    encoded = predictor.encode(volume)
    answers = predictor.ask(encoded, list(REAL_QUESTIONS))
    return AnswerReport(volume=volume, grid=encoded.grid, card=predictor.card, answers=answers)


def consult(predictor: Predictor, case: Case, *, folder: Path) -> AnswerReport:
    """Ask a case its own questions, from its file, and judge the answers."""
    volume = read_volume(folder / case.volume)
    encoded = predictor.encode(volume)
    with progress_bar(Console(stderr=True), "answering") as progress:
        answers = predictor.ask(encoded, [pair.prompt for pair in case.conversations], progress=progress)
    truths = judge(answers, case, grid=encoded.grid)
    return AnswerReport(volume=volume, grid=encoded.grid, card=predictor.card, answers=answers, truths=truths)


def _comparison(pairs: Sequence[Conversation], report: AnswerReport) -> RenderableType:
    """The report beside its truth, then a row per question."""
    parts: list[RenderableType] = []
    table = Table(header_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("", "question", "answer", "truth", "weighs most"):
        table.add_column(name, overflow="fold")
    for pair, answer, truth in zip(pairs, report.answers, report.truths, strict=True):
        assert truth is not None
        mark = Text("✓", style="bold green") if truth.is_right else Text("✗", style="bold red")
        if pair.task == "report":
            block = Table.grid(padding=(0, 1, 0, 0))
            block.add_row(mark, Text(pair.question, style="bold cyan"))
            block.add_row("", Text(answer.text))
            block.add_row("", Text(f"truth: {pair.answer}", style="dim"))
            parts.append(Padding(block, (1, 0, 0, 0)))
        else:
            truly = Text(pair.target, style="dim" if truth.is_right else "")
            table.add_row(mark, Text(pair.question), Text(answer.text), truly, _rests_on(answer))
    return Group(*parts, table)


def _rests_on(answer: Answer) -> str:
    ranges = summarise(answer).ranges
    return f"{ranges[0].name} ({ranges[0].share:.2f})" if ranges else "spread out"


def _clear(folder: Path) -> None:
    """Make the folder, or empty the one an earlier demo made."""
    if folder.is_file():
        raise InputError(f"{folder} is a file; name a folder with --out.")
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / MARKER).is_file():
            raise InputError(f"{folder} holds files that no demo made; name another folder with --out.")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).touch()
