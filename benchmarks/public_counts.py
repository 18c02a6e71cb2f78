"""Do a benchmark's public text files hold what its paper says, and what does the commonest answer score on them?

    python benchmarks/public_counts.py 3DRAD            # the folder of https://github.com/Tang-xiaoxiao/3D-RAD

No scan is needed: scans, patients and questions are counted by task and split, beside the paper's own table
(Figures/distribution.png); for closed questions also the share of the commonest right answer of each topic, which is
what a system scores that never looks.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from pathlib import Path

from rich.console import Console

from slicesight.data.sources.tables import csv_rows
from slicesight.data.sources.three_d_rad import COLUMNS, TASKS
from slicesight.reports.score_tables import headed_table

PUBLISHED = {
    ("test", "2"): (1858, 1008, 2666),
    ("test", "1"): (980, 651, 1024),
    ("test", "3"): (656, 331, 1002),
    ("test", "4"): (1304, 1304, 23472),
    ("test", "5"): (169, 169, 2873),
    ("test", "6"): (169, 169, 2873),
    ("test", "all"): (2662, 1304, 33910),
    ("train", "2"): (5670, 4443, 6055),
    ("train", "1"): (2045, 1697, 2081),
    ("train", "3"): (1148, 587, 1573),
    ("train", "4"): (5565, 5565, 100170),
    ("train", "5"): (774, 774, 13158),
    ("train", "6"): (774, 774, 13158),
    ("train", "all"): (13526, 9951, 136195),
}
"""(split, number of the folder's task) -> images, patients, question-answer pairs, as the paper's table has them."""


def main(folder: Path) -> None:
    scans, patients = defaultdict(set), defaultdict(set)
    questions: Counter[tuple[str, str]] = Counter()
    answers: dict[tuple[str, str, str], Counter[str]] = defaultdict(Counter)
    for table in sorted(folder.rglob("Task*/*.csv")):
        split = table.parent.parent.name
        for _, row in csv_rows(table, needed=COLUMNS):
            if row is None:
                continue
            name = row["VolumeName"].strip()
            for task in (row["Task"].strip(), "all"):
                scans[split, task].add(name)
                patients[split, task].add("_".join(name.split("_")[:2]))
                questions[split, task] += 1
            if row["QuestionType"].strip() == "Close":
                answers[split, row["Task"].strip(), table.stem][row["Answer"].strip()] += 1
    found = headed_table(
        "3D-RAD", "split", "task", "scans", "patients", "questions", "as published", "commonest answer"
    )
    for (split, task), total in sorted(questions.items()):
        counted = (len(scans[split, task]), len(patients[split, task]), total)
        topics = [counts for (s, t, _), counts in answers.items() if (s, t) == (split, task)]
        right, of = sum(max(counts.values()) for counts in topics), sum(counts.total() for counts in topics)
        stated = PUBLISHED[split, task]
        equal = "equal" if stated == counted else "/".join(f"{number:,}" for number in stated)
        share = f"{100 * right / of:.2f} %" if of else "–"
        found.add_row(split, TASKS.get(task, task), *(f"{number:,}" for number in counted), equal, share)
    Console().print(found)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
