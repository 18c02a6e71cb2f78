"""How much does a model know about real scans with label maps, topic by topic, and what would one get without looking?

    python benchmarks/anatomy_scores.py PREPARED --split test --model NAME=FOLDER… [--blind NAME=FOLDER…] --out DIR

PREPARED is what `slicesight prepare masks.yaml --format masks` wrote. Every model answers the split's questions, and
those about a blank volume and another patient's; a blind model answers the text alone. Several folders of one NAME
(comma between) are its seeds. Beside them, without a model:

    majority   the commonest training answer to the same question about the same structures
    position   the answers to the 15 nearest training questions of the kind, by where the view lies in the whole scan
    body       the same by the outline of the body, slice by slice, too

Scores: closed questions right or wrong, held to their choices, and the same asked without choices word for word;
`slices` the IoU of the two ranges; `most` and `count`
right within 2 slices of the grid; `report` the F1 of the structures it says are in view, among those whose truth is
known. Excess mass: (score mass on slices that show what is asked - their share) / (1 - share). Intervals draw patients,
tests compare patients and Holm's correction is over the topics. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import slicesight
from slicesight.data.choices import is_right
from slicesight.data.dataset import PreparedDataset, open_dataset
from slicesight.data.manifest import Case, Conversation
from slicesight.evaluation.controls import as_prediction, ask_blind
from slicesight.evaluation.predict import MODEL, PredictionRun, open_run, predict
from slicesight.evaluation.predictions import Prediction, read_jsonl, to_lines
from slicesight.evaluation.statistics import compare, holm, mean_interval

NEIGHBOURS = 15
NEAR_ENOUGH = 2
OPEN_TOPICS = ("slices", "most", "count")
CONTROLS = ("blank", "wrong_volume")
NUMBERS = re.compile(r"\d+")
Rows = Sequence[Prediction]


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    source = open_dataset(f"prepared:{options.prepared}", split=options.split)
    training = open_dataset(f"prepared:{options.prepared}", split="train")
    if options.max_cases is not None:
        chosen = np.linspace(0, len(source) - 1, min(options.max_cases, len(source))).astype(int)
        source = source.subset(source.cases[i] for i in chosen)
    assert isinstance(source, PreparedDataset)
    assert isinstance(training, PreparedDataset)
    systems: dict[str, list[Rows]] = {}
    for name, folders in named(options.model):
        runs = [answered(folder, source, options.out / f"{name}-{place}", options.controls)
                for place, folder in enumerate(folders)]  # fmt: skip
        systems[name] = [run[MODEL] for run in runs]
        for control in options.controls:
            systems[f"{name}, {control}"] = [run[control] for run in runs]
    for name, folders in named(options.blind):
        systems[name] = [
            blind(folder, source, options.out / f"{name}-{place}.jsonl") for place, folder in enumerate(folders)
        ]
    for name, files in named(options.rows):
        wanted = {case.id for case in source.cases}
        systems[name] = [[row for row in read_jsonl(Path(file)) if row.volume in wanted] for file in files]
    for name, kinds in (("majority", ()), ("position", ("place",)), ("body", ("place", "body"))):
        systems[name] = [nearest(training, source, kinds)]
    table = make_table(systems, source.cases)
    print("\n".join(lines_of(table)))
    print(json.dumps(table))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prepared", type=Path)
    parser.add_argument("--split", default="val", help="the test patients are looked at once")
    parser.add_argument("--model", action="append", default=[], metavar="NAME=FOLDER[,FOLDER]")
    parser.add_argument("--blind", action="append", default=[], metavar="NAME=FOLDER[,FOLDER]")
    parser.add_argument("--rows", action="append", default=[], metavar="NAME=FILE[,FILE]", help="answers given already")
    parser.add_argument("--controls", nargs="*", default=list(CONTROLS))
    parser.add_argument("--max-cases", type=int)
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args(arguments)


def named(given: Sequence[str]) -> list[tuple[str, list[str]]]:
    pairs = [text.partition("=") for text in given]
    return [(name, folders.split(",")) for name, _, folders in pairs]


# --- answers ---------------------------------------------------------------------------------------------------------


def answered(folder: str, source: PreparedDataset, out: Path, controls: Sequence[str]) -> dict[str, Rows]:
    """What a model says, kept in `out` case by case."""
    run = PredictionRun(folder=out, source=source, systems=(MODEL, *controls))
    predictor = slicesight.load(folder)
    open_run(run, predictor)
    predict(
        run, predictor, progress=lambda done, total: say(f"{out.name}: {done} of {total}") if done % 200 == 0 else None
    )
    return {system: run.rows(system) for system in run.systems}


def blind(folder: str, source: PreparedDataset, path: Path) -> Rows:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(to_lines(ask_blind(slicesight.load(folder), source.cases)), encoding="utf-8")
    return read_jsonl(path)


# --- without a model -------------------------------------------------------------------------------------------------


def nearest(training: PreparedDataset, source: PreparedDataset, kinds: Sequence[str]) -> Rows:
    """What the nearest training questions about the same structures were answered with; all of them without `kinds`."""
    known: dict[tuple[str, ...], list[tuple[NDArray[np.float64], str]]] = defaultdict(list)
    frames = frames_of([*training.cases, *source.prepared.cases])
    for case in training.cases:
        features = features_of(training, case, frames, kinds)
        for asked in case.conversations:
            known[key_of(asked)].append((with_choices(features, asked, kinds), answer_of(asked)))
    tables = {key: (np.stack([row for row, _ in rows]), [answer for _, answer in rows]) for key, rows in known.items()}
    rows = []
    for case in source.cases:
        features = features_of(source, case, frames, kinds)
        for number, asked in enumerate(case.conversations):
            said = ""
            if key_of(asked) in tables:
                there, answers = tables[key_of(asked)]
                scale = there.std(axis=0) + 1e-6
                apart = (((there - with_choices(features, asked, kinds)) / scale) ** 2).sum(axis=1)
                near = np.argsort(apart, kind="stable")[:NEIGHBOURS] if kinds else range(len(answers))
                said = common_answer(asked, [answers[i] for i in near])
            row = as_prediction(case, number, said, choice=said if asked.choices else None)
            rows.append(row)
    return rows


def key_of(asked: Conversation) -> tuple[str, ...]:
    """Which questions are of one kind: topic, structures, and the choices but for their order."""
    assert asked.id is not None
    subject = "" if asked.topic == "report" else asked.id.split(":")[3]
    choices = () if asked.topic in ("near", "modality", "region", "plane") else sorted(asked.choices or ())
    return (asked.topic, subject, *choices)


def common_answer(asked: Conversation, answers: Sequence[str]) -> str:
    """The commonest answer, or the middle of the ranges and numbers that they name."""
    if asked.topic == "near":
        assert asked.choices
        return asked.choices[int(2 * sum(answer == "1" for answer in answers) > len(answers))]
    if asked.topic in OPEN_TOPICS:
        numbers = [[int(number) for number in NUMBERS.findall(answer)] for answer in answers]
        if asked.topic == "slices":
            first, last = (int(np.median([row[end] for row in ranges(numbers)])) for end in (0, 1))
            return f"slices {first} to {last} of {numbers[0][-1]}"
        middle = int(np.median([row[0] for row in numbers]))
        return (
            f"slice {middle} of {numbers[0][-1]}" if asked.topic == "most" else f"{middle} of {numbers[0][-1]} slices"
        )
    if asked.topic == "report":
        counted: Counter[str] = Counter()
        for answer in answers:
            counted.update(in_view(answer))
        shown = [name for name, count in counted.items() if 2 * count > len(answers)]
        return f"In view: {', '.join(shown)}." if shown else ""
    among = [answer for answer in answers if not asked.choices or answer in asked.choices]
    return Counter(among).most_common(1)[0][0] if among else ""


def answer_of(asked: Conversation) -> str:
    """The answer; for `near`, whose choices differ from one question to the next, which of the two it is."""
    return str((asked.choices or ()).index(asked.answer)) if asked.topic == "near" else asked.answer


def frames_of(cases: Sequence[Case]) -> dict[str, tuple[int, int]]:
    """The first and last slice of every whole scan, by its file."""
    frames: dict[str, tuple[int, int]] = {}
    for case in cases:
        assert case.reading is not None
        assert case.reading.slices is not None
        first, last = frames.get(case.volume, case.reading.slices)
        frames[case.volume] = min(first, case.reading.slices[0]), max(last, case.reading.slices[1])
    return frames


def features_of(
    source: PreparedDataset, case: Case, frames: Mapping[str, tuple[int, int]], kinds: Sequence[str]
) -> NDArray[np.float64]:
    """place: where the view begins and ends in the whole scan. body: rows and columns of the body in 8 slabs."""
    found: list[float] = [0.0]
    if "place" in kinds:
        assert case.reading is not None
        assert case.reading.slices is not None
        low, high = frames[case.volume]
        found += [(place - low) / (high - low + 1) for place in case.reading.slices]
    if "body" in kinds:
        body = source.voxels(case) > 0.08
        for slab in np.array_split(body, 8):
            rows, columns = np.flatnonzero(slab.any(axis=(0, 2))), np.flatnonzero(slab.any(axis=(0, 1)))
            ends = [rows[0], rows[-1], columns[0], columns[-1]] if len(rows) else [0, 0, 0, 0]
            found += [*map(float, ends), float(slab.mean())]
    return np.array(found)


def with_choices(features: NDArray[np.float64], asked: Conversation, kinds: Sequence[str]) -> NDArray[np.float64]:
    """For `near`, the slices that the choices name, too."""
    if asked.topic != "near" or not kinds:
        return features
    return np.array(
        [*features, *(float(number) for choice in asked.choices or () for number in NUMBERS.findall(choice))]
    )


# --- scores ----------------------------------------------------------------------------------------------------------


def score(row: Prediction) -> float:
    """How right one answer is, from 0 to 1."""
    said = row.choice if row.choice is not None else row.prediction
    if row.task == "closed":
        return float(is_right(said, row))
    if row.topic == "report":
        return report_f1(row.prediction, row.answer)
    if row.topic not in OPEN_TOPICS:
        return float(row.prediction.strip(" .").lower() == row.answer.lower())
    found, true = ([int(number) for number in NUMBERS.findall(text)] for text in (row.prediction, row.answer))
    if not found:
        return 0.0
    if row.topic == "slices":
        (low, high), (first, last) = (ranges([numbers])[0] for numbers in (found, true))
        both = max(0, min(high, last) - max(low, first) + 1)
        return both / (max(high, last) - min(low, first) + 1) if high >= low else 0.0
    return float(abs(found[0] - true[0]) <= NEAR_ENOUGH)


def ranges(numbers: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """First and last of "slices 3 to 9 of 32" and of "slice 3 of 32"."""
    return [(row[0], row[1]) if len(row) > 2 else (row[0], row[0]) for row in numbers]


def report_f1(said: str, true: str) -> float:
    """Of the structures in view, among those that the true report speaks of."""
    known = in_view(true) | in_view(true, opening="Not in view")
    shown, found = in_view(true), in_view(said) & known
    if not known:
        return 1.0
    if not shown and not found:
        return 1.0
    return 2 * len(shown & found) / (len(shown) + len(found))


def in_view(report: str, *, opening: str = "In view") -> set[str]:
    """The structures listed in one sentence of a report."""
    for sentence in report.split(". "):
        if sentence.startswith(f"{opening}: "):
            plain = re.sub(r"\([^)]*\)", "", sentence[len(opening) + 2 :])
            return {name.strip(" .") for name in plain.split(",") if name.strip(" .")}
    return set()


def excess(row: Prediction) -> float | None:
    """Excess mass of the scores on the true slices; None where those are unknown."""
    if row.scores is None or not row.true_slices:
        return None
    share = len(row.true_slices) / len(row.scores)
    return (sum(row.scores[i] for i in row.true_slices) - share) / (1 - share)


def make_table(systems: Mapping[str, Sequence[Rows]], cases: Sequence[Case]) -> dict[str, Any]:
    patient_of = {case.id: str(case.patient) for case in cases}
    first = next(iter(systems))
    topics = sorted({kind_of(row) for row in systems[first][0]})
    groups: dict[str, Callable[[Prediction], bool]] = {}
    for topic in topics:
        groups[topic] = lambda row, topic=topic: kind_of(row) == topic
        if any(is_held_back(row) for row in of_topic(systems[first][0], topic)):
            for name, held_back in (("taught wordings", False), ("other wordings", True)):
                groups[f"{topic}: {name}"] = lambda row, topic=topic, held_back=held_back: (
                    kind_of(row) == topic and is_held_back(row) == held_back
                )
        subjects = sorted({subject_of(row) for row in systems[first][0] if kind_of(row) == topic} - {""})
        if 1 < len(subjects) <= 8:
            for subject in subjects:
                groups[f"{topic}: {subject}"] = lambda row, topic=topic, subject=subject: (
                    kind_of(row) == topic and subject_of(row) == subject
                )
    table: dict[str, Any] = {"patients": len(set(patient_of.values())), "scores": {}, "excess": {}, "tests": {}}
    for group, belongs in groups.items():
        table["scores"][group] = {
            name: interval(
                [[(patient_of[str(row.volume)], score(row)) for row in rows if belongs(row)] for rows in runs]
            )
            for name, runs in systems.items()
        }
        table["excess"][group] = {
            name: interval([[(patient_of[str(row.volume)], value) for row in rows if belongs(row)
                             and (value := excess(row)) is not None] for rows in runs])
            for name, runs in systems.items() if runs[0] and runs[0][0].scores is not None
        }  # fmt: skip
    for other in systems:
        if other == first or ", " in other:
            continue
        found = {}
        for topic in topics:
            pair = [[of_topic(rows, topic) for rows in runs] for runs in (systems[first], systems[other])]
            found[topic] = compare(*[[by_patient(rows, patient_of) for rows in runs] for runs in pair])
        kept = {topic: test for topic, test in found.items() if test is not None}
        corrected = holm([test.p for test in kept.values()])
        table["tests"][other] = {
            topic: replace(test, p_holm=p).to_dict() for (topic, test), p in zip(kept.items(), corrected, strict=True)
        }
    return table


def kind_of(row: Prediction) -> str:
    """The topic; of one that is asked with choices and without, which of the two."""
    asked_openly = row.task == "open" and row.topic not in OPEN_TOPICS
    return f"{row.topic}, no choices" if asked_openly else row.topic


def is_held_back(row: Prediction) -> bool:
    """Asked in words that no training question has."""
    return row.id.endswith(":held-back")


def of_topic(rows: Rows, topic: str) -> list[Prediction]:
    return [row for row in rows if kind_of(row) == topic]


def subject_of(row: Prediction) -> str:
    return "" if row.topic == "report" else row.id.split(":")[3]


def by_patient(rows: Rows, patient_of: Mapping[str, str]) -> dict[str, float]:
    values: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        values[patient_of[str(row.volume)]].append(score(row))
    return {patient: float(np.mean(found)) for patient, found in values.items()}


def interval(runs: Sequence[Sequence[tuple[str, float]]]) -> dict[str, Any] | None:
    """Mean over questions and seeds, with its interval by patient."""
    if not runs or not runs[0]:
        return None
    values = np.array([[value for _, value in rows] for rows in runs])
    found = mean_interval(values.mean(axis=0), [patient for patient, _ in runs[0]])
    return {**found.to_dict(), "n": values.shape[1], "seeds": values.mean(axis=1).round(4).tolist()}


def lines_of(table: Mapping[str, Any]) -> list[str]:
    names = list(next(iter(table["scores"].values())))
    lines = ["| topic | n | " + " | ".join(names) + " | excess mass |", "|---" * (len(names) + 3) + "|"]
    for group, found in table["scores"].items():
        cells = []
        for place, name in enumerate(names):
            entry = found[name]
            if entry is None:
                cells.append("")
            elif place == 0:
                low, high = entry["ci95"]
                cells.append(f"{entry['value']:.3f} ({low:.3f}–{high:.3f})")
            else:
                cells.append(f"{entry['value']:.3f}")
        mass = table["excess"][group].get(names[0])
        cells.append("" if mass is None else f"{mass['value']:.2f}")
        lines.append(f"| {group} | {found[names[0]]['n']} | " + " | ".join(cells) + " |")
    for other, tests in table["tests"].items():
        told = ", ".join(f"{topic} {test['difference']:+.3f} (p {test['p_holm']:.3f})" for topic, test in tests.items())
        lines.append(f"\nagainst {other}, Holm: {told}")
    return lines


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    main()
