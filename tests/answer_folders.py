"""What the tests of `ask FOLDER` and `watch` share: processes that are this process, and what was written."""

from __future__ import annotations

import csv
import json
import pickle
from pathlib import Path

from slicesight.reports.answer_table import asking
from slicesight.reports.answer_table.run import killed

QUESTIONS = "id,question,choices\nphase,Which phase is this?,arterial|venous\n,What is seen?,\n"


class ThisProcess:
    """Stands for the processes that answer; `jobs` are those that had a scan."""

    def __init__(self):
        self.jobs = []
        self.before_job = lambda job: None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def outcomes(self, jobs):
        for job in jobs:
            if job.scan is not None:
                self.jobs.append(job)
                if self.before_job(job) == "killed":
                    yield killed(job)
                    continue
            yield pickle.loads(pickle.dumps(asking.ask_scan(pickle.loads(pickle.dumps(job)))))


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def bad_of(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / "bad.jsonl").read_text().splitlines()]


def asked(processes: ThisProcess) -> list[str]:
    return [job.scan.name for job in processes.jobs]
