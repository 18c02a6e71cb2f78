"""How does `slicesight ask FOLDER QUESTIONS.csv --out answers.csv` go through a folder?

Questions, table and folder are checked first; then the model is loaded, once per process, and every scan is read and
encoded once for all its questions. Exit code 0: every scan was asked. 3: some could not be, they are listed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from slicesight.cli.options import say, stderr, three_numbers
from slicesight.cli.scans import STDOUT, AskOptions
from slicesight.cli.stopping import EXIT_STOPPED, told_to_stop
from slicesight.data.scan_questions import ScanQuestion, listed_questions, read_questions
from slicesight.errors import InputError
from slicesight.files import only_run_in
from slicesight.io.scan_tree import FoundScans, ScanFinder
from slicesight.models.shipped import DEFAULT_MODEL
from slicesight.reports.answer_table.asking import AskSettings
from slicesight.reports.answer_table.columns import check_table
from slicesight.reports.answer_table.journal import check_folder
from slicesight.reports.answer_table.run import BAD, INDEX, AnswerRun, make_processes
from slicesight.reports.terminal import progress_bar

if TYPE_CHECKING:
    from slicesight.cli.watching import WatchOptions

SOME_BAD = 3
"""Exit code where the run is whole but not every scan could be asked."""


def run_ask_folder(options: AskOptions, *, out: Path) -> None:
    """Answer, write and say what was written."""
    refuse_single_scan_options(options)
    check_table(out)
    questions = questions_of(options.questions or [])
    folder = out.with_suffix("")
    check_folder(folder)
    with stderr().status("looking for scans"):
        found = find_scans(options.scan, leave_out=folder)
    wanted = [scan for scan in found.scans if any(asked.is_for(*scan.key) for asked in questions)]
    unmatched = [one for one in questions if not any(one.is_for(*scan.key) for scan in found.scans)]
    if len(unmatched) == len(questions):
        raise InputError(
            f"no scan of {options.scan} matches a question's scan pattern, such as {unmatched[0].pattern!r}"
        )
    with told_to_stop(say) as stop, make_processes(options.workers) as processes:
        run = AnswerRun(
            folder=folder, table=out, questions=questions, settings=settings_of(options), processes=processes
        )
        with stderr().status(f"loading {run.settings.model}"):
            run.load()
        with only_run_in(folder, doing="answering"):
            run.begin()
            with progress_bar(stderr(), f"asking {len(wanted)} scans") as progress:
                run.answer(wanted, retry=True, progress=progress, is_stopped=stop.is_set)
            if stop.is_set():
                say(f"stopped; {run.num_asked} scans were asked now, and are kept: the same line goes on with the rest")
                raise typer.Exit(EXIT_STOPPED)
            bad = run.write([scan.key for scan in wanted])
    say_left_out(found, unmatched)
    if run.num_kept:
        say(f"{run.num_kept} of {len(wanted)} scans had their answers from an earlier run")
    for warning in run.warnings(scan.key for scan in wanted):
        stderr().print(warning, style="yellow", highlight=False, soft_wrap=True)
    num_rows = sum(len(run.prompts_for(scan.key)) for scan in wanted)
    say(f"wrote {out}: {num_rows} rows about {len(wanted)} scans; look at {folder / INDEX}")
    if bad:
        some = f"{len(bad)} of {len(wanted)} scans could not be asked everything"
        say(f"{some}, they are in {folder / BAD}: {bad[0]['error']}")
        raise typer.Exit(SOME_BAD)


def questions_of(arguments: list[str]) -> list[ScanQuestion]:
    """From one table's path, or as typed."""
    tables = [text for text in arguments if text.lower().endswith(".csv")]
    if not arguments:
        raise InputError("--out needs questions: a CSV with a column question, or questions in quotes")
    if not tables:
        return listed_questions(arguments)
    if len(arguments) > 1:
        raise InputError(f"{tables[0]} stands beside other questions; name one table, or type every question")
    return read_table(Path(tables[0]))


def read_table(path: Path) -> list[ScanQuestion]:
    """The questions of a CSV, with a word about columns that mean nothing."""
    questions, ignored = read_questions(path)
    if ignored:
        say(f"note: {path}: {', '.join(ignored)} mean nothing here; known are id, question, choices and scan")
    return questions


def find_scans(base: Path, *, leave_out: Path) -> FoundScans:
    """Every scan below the folder.

    Raises:
        InputError: it is none, or no scan is in it.
    """
    if not base.exists():
        raise InputError(f"{base}: no such folder; expected a folder of scans")
    if base.is_file():
        raise InputError(f"{base}: is a file, and --out is for a folder of scans; name its folder, or leave --out out")
    found = ScanFinder(base, leave_out=[leave_out]).find()
    if not found.scans:
        left = "".join(f"; left out {count} {what}" for what, count in found.left_out.items())
        expected = "expected NIfTI, NRRD, MetaImage, .npy, zips, or folders of DICOM or PNG slices"
        raise InputError(f"{base}: no scan in it; {expected}{left}")
    return found


def say_left_out(found: FoundScans, unmatched: list[ScanQuestion]) -> None:
    """What was passed over."""
    for what, count in found.left_out.items():
        say(f"left out {count} {what}")
    for asked in unmatched:
        say(f"note: question {asked.id} was asked of no scan; none matches {asked.pattern!r}")


def settings_of(options: AskOptions | WatchOptions) -> AskSettings:
    """What the processes are told."""
    guest = options.guest_settings
    return AskSettings(
        model=options.model or DEFAULT_MODEL,
        int8=options.int8,
        cache=options.cache,
        preset=guest.get("preset"),
        evidence_passes=guest.get("evidence_passes"),
        window=options.window,
        plane=options.plane,
        spacing_mm=three_numbers(options.spacing_mm, "--spacing-mm"),
        time_point=options.time_point,
        unit=options.unit,
        fill=options.fill,
        choices=options.choices or "both",
        min_confidence=options.min_confidence,
        answer_anyway=options.answer_anyway,
        reports=options.pages,
        one_thread=options.workers > 1,
        limit_seconds=options.scan_limit,
    )


def refuse_single_scan_options(options: AskOptions) -> None:
    """What is about one scan only.

    Raises:
        InputError: with the option.
    """
    single = ("json", "html", "png", "sr", "report", "store", "truth", "series", "archive_token")
    for name in single:
        if getattr(options, name) not in (None, False, []):
            instead = (
                "the table has them all" if options.json == STDOUT else "the folder of answers has a page per scan"
            )
            raise InputError(
                f"--{name.replace('_', '-')} is for one scan, and --out for many ({instead}); leave one out"
            )
