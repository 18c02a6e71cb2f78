"""How does `slicesight watch` go on for weeks: restarted, with broken files, with series that come slice by slice?

look -> whole scans -> ask -> journal -> table. What is known by content is never asked again, whatever its name. A scan
that cannot be asked is listed once. SIGTERM and Ctrl-C let the scan that is being asked finish; a second one ends at
once, and costs that scan's answers only.
"""

from __future__ import annotations

import threading
import time
from datetime import datetime

import typer

from slicesight.cli.ask_folder import SOME_BAD, read_table, settings_of
from slicesight.cli.options import checked_folder, say, stderr
from slicesight.cli.stopping import told_to_stop
from slicesight.cli.watching import WatchOptions
from slicesight.errors import InputError
from slicesight.files import only_run_in, plain_disk_errors
from slicesight.io.inbox import Inbox
from slicesight.io.scan_tree import FoundScan, ScanFinder
from slicesight.reports.answer_table.asking import AskOutcome
from slicesight.reports.answer_table.columns import check_table
from slicesight.reports.answer_table.journal import check_folder
from slicesight.reports.answer_table.run import BAD, INDEX, AnswerRun, make_processes

WRITE_EVERY_SECONDS = 10.0


def run_watch(options: WatchOptions) -> None:
    """Watch until a signal; raises InputError before anything is written."""
    if not options.inbox.is_dir():
        raise InputError(f"{options.inbox}: no such folder; make it, or name the one that scans are written to")
    checked_folder(options.out)
    if options.out.resolve() == options.inbox.resolve():
        raise InputError(f"--out {options.out} is the folder that is watched; name another")
    questions, out = read_table(options.questions), options.out
    table = out / f"answers.{options.table}"
    if not out.parent.is_dir():
        raise InputError(f"{out}: the folder {out.parent} does not exist; create it or name another --out")
    check_folder(out)
    if out.is_dir() or table.suffix == ".parquet":
        check_table(table if out.is_dir() else out.parent / table.name)
    with told_to_stop(log) as stop, make_processes(options.workers, ahead=1) as processes:
        run = AnswerRun(
            folder=out, table=table, questions=questions, settings=settings_of(options), processes=processes
        )
        with stderr().status(f"loading {options.model}"):
            run.load()
        with only_run_in(out, doing="watching"), plain_disk_errors(out):
            run.begin()
            inbox = Inbox(ScanFinder(options.inbox, leave_out=[out]), settle_seconds=options.settle)
            log(f"watching {options.inbox}; the answers: {table}, {out / INDEX}")
            _watch(run, inbox, options, stop)
            bad = run.write(run.places_by_content())
    log(f"stopped; {run.num_asked} scans were asked, {len(bad)} cannot be asked ({out / BAD})")
    if bad and options.once:
        raise typer.Exit(SOME_BAD)


def _watch(run: AnswerRun, inbox: Inbox, options: WatchOptions, stop: threading.Event) -> None:
    written = time.monotonic()
    is_there = True

    def on_done(scan: FoundScan, outcome: AskOutcome) -> None:
        nonlocal written
        if outcome.error is not None:
            log(f"cannot be asked: {outcome.error}")
        else:
            seconds = sum(cells["seconds"] for cells in outcome.cells.values())
            refused = f", {len(outcome.errors)} refused" if outcome.errors else ""
            log(f"asked {scan}: {len(outcome.cells)} answers{refused} in {seconds:.1f} s")
        if time.monotonic() - written > WRITE_EVERY_SECONDS:
            run.write(run.places_by_content())
            written = time.monotonic()

    while not stop.is_set():
        try:
            ready = inbox.whole()
            is_there = True
        except InputError as error:
            if is_there:
                log(f"{error}; waiting for it to come back")
            is_there, ready = False, []
        if ready:
            run.answer(ready, is_stopped=stop.is_set, on_done=on_done)
            run.write(run.places_by_content())
            written = time.monotonic()
        if options.once and not inbox.num_waiting:
            return
        stop.wait(options.every)


def log(text: str) -> None:
    """A line with its time."""
    say(f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S} {text}")
