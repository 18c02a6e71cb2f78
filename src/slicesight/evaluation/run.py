"""How good is a model on a test set, and how much of that is worth anything? `slicesight evaluate`, from data to sheet.

predict -> controls -> score -> compare -> leaks -> sheet.json. Honest by default: the controls are
answered too unless they are turned off, every interval is by volume, and what could not be checked is named.
Leaks are cases, patients and volumes that training and test share. A volume is compared by the content of its files, so
that a copy under another name is found; the same scan stored in another format is not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from slicesight.data.dataset import Dataset, open_dataset, select
from slicesight.errors import InputError
from slicesight.evaluation.controls import VOLUME_CONTROLS, ask_blind, majority
from slicesight.evaluation.predict import MODEL, Bars, PredictionRun, digest_model, no_bar, open_run, predict, unwatched
from slicesight.evaluation.predictions import TASKS, PredictionFile, own_file, to_lines
from slicesight.evaluation.report_labels import LabelOptions
from slicesight.evaluation.sheet import Scored, compare_systems, make_sheet, score_file, to_json
from slicesight.files import write_text
from slicesight.inference.answers import Progress
from slicesight.inference.predictor import Predictor

CONTROLS = (*VOLUME_CONTROLS, "majority", "blind")
NO_BLIND = "no model named that was trained without scans; --blind-model FOLDER"
NUM_EXAMPLES = 5
NO_TRAINING = "no training data named; --train-data DATA"


def evaluate(
    run: PredictionRun,
    predictor: Predictor,
    *,
    data: Mapping[str, str | None],
    training: Dataset | None = None,
    blind: Callable[[], Predictor] | None = None,
    bertscore: str | None = None,
    layer: int | None = None,
    labels: LabelOptions | None = None,
    answer: Callable[[Progress], None] | None = None,
    bars: Bars = no_bar,
) -> tuple[dict[str, Any], dict[str, Scored]]:
    """Answer what is not answered yet and score it; writes sheet.json.

    Args:
        data: {"source", "split"} as the sheet shall name them.
        training: what the model was trained on: leaks are looked for, and the majority's answers come from there.
        blind: loads a model that was trained without scans.
        bertscore, layer: as `sheet.score_file` takes them.
        labels: how findings are read from the reports, those of the controls too.
        answer: answers the run's cases in another way than here, one after another.

    Returns:
        The sheet, and everything scored: the model (MODEL) and its controls.

    Raises:
        InputError: something else answered in that folder, or no scan could be read.
    """
    with bars("looking at the scans") as progress:
        open_run(run, predictor, progress=progress)
    with bars("answering") as progress:
        if answer is None:
            predict(run, predictor, progress=progress)
        else:
            answer(progress)
    _answer_without_scans(run, training, blind, bars)
    scored = _score(run, bertscore=bertscore, layer=layer)
    sheet = _sheet(run, predictor, scored, data, labels)
    with bars("looking for leaks") as progress:
        _add_leaks(sheet, scored[MODEL], training, run.source, progress)
    write_text(run.folder / "sheet.json", text=to_json(sheet))
    return sheet, scored


def training_cases(data: str | None) -> Dataset | None:
    """What a model was trained on: the training split, where there are splits."""
    if data is None:
        return None
    source = open_dataset(data)
    has_splits = any(case.split is not None for case in source.cases)
    return select(source, split="train") if has_splits else source


def find_leaks(training: Dataset, test: Dataset, *, progress: Progress = unwatched) -> dict[str, Any]:
    """What both share: counts, the leaking test cases, and a few examples of copied volumes.

    A patient's name is never given: only that of the case.
    """
    known_ids = {case.id for case in training.cases}
    known_patients = {(case.source, case.patient) for case in training.cases if case.patient is not None}
    total = len(training.cases) + len(test.cases)
    contents: dict[str, str] = {}
    for done, case in enumerate(training.cases):
        progress(done, total)
        contents.setdefault(training.scan_content(case), case.id)
    ids = [case.id for case in test.cases if case.id in known_ids]
    patients = [
        case.id for case in test.cases if case.patient is not None and (case.source, case.patient) in known_patients
    ]
    copies = []
    for done, case in enumerate(test.cases, start=len(training.cases)):
        progress(done, total)
        if twin := contents.get(test.scan_content(case)):
            copies.append({"test": case.id, "training": twin})
    leaking = dict.fromkeys([*ids, *patients, *(copy["test"] for copy in copies)])
    return {
        "num_training": len(training.cases),
        "num_test": len(test.cases),
        "num_shared_ids": len(ids),
        "num_shared_patients": len(patients),
        "num_shared_volumes": len(copies),
        "num_leaking": len(leaking),
        "leaking_cases": list(leaking),
        "examples": copies[:NUM_EXAMPLES],
    }


def describe_leaks(leaks: dict[str, Any]) -> str:
    """One line for the report."""
    if not leaks["num_leaking"]:
        return "no case, patient or volume of the {num_test} is among the {num_training} for training".format(**leaks)
    return (
        "{num_leaking} of {num_test} test cases leak: {num_shared_ids} by id, {num_shared_patients} by patient, "
        "{num_shared_volumes} by the content of their volume"
    ).format(**leaks)


def _has_controls(run: PredictionRun) -> bool:
    return set(VOLUME_CONTROLS) <= set(run.systems)


def _answer_without_scans(
    run: PredictionRun, training: Dataset | None, load_blind: Callable[[], Predictor] | None, bars: Bars
) -> None:
    """The majority's answers and the blind model's; both cost little and are written whole."""
    if not _has_controls(run) and load_blind is None:
        return
    cases = [case for case in run.source.cases if case.id not in run.skipped]
    rows = majority(cases, None if training is None else training.cases)
    write_text(run.path("majority"), text=to_lines(rows))
    if load_blind is None:
        return
    blind = load_blind()
    mark = run.folder / "controls" / "blind.digest"
    digest = digest_model(blind)
    if run.path("blind").exists() and mark.exists() and mark.read_text(encoding="utf-8") == digest:
        return
    with bars("asking the blind model") as progress:
        write_text(run.path("blind"), text=to_lines(ask_blind(blind, cases, progress=progress)))
    write_text(mark, text=digest)


def _score(run: PredictionRun, *, bertscore: str | None, layer: int | None) -> dict[str, Scored]:
    """The model and every control that was answered, scored."""
    scored = {
        name: score_file(own_file(run.path(name)), bertscore=bertscore, layer=layer)
        for name in (MODEL, *CONTROLS)
        if run.path(name).exists() and (name in (MODEL, "blind") or _has_controls(run))
    }
    if not scored or not scored[MODEL].rows:
        raise InputError(f"{run.folder}: none of the {len(run.source.cases)} cases could be read; see --on-bad-case.")
    return scored


def _sheet(
    run: PredictionRun,
    predictor: Predictor,
    scored: Mapping[str, Scored],
    data: Mapping[str, str | None],
    labels: LabelOptions | None,
) -> dict[str, Any]:
    """The model's sheet with its controls."""
    sheet = make_sheet(scored[MODEL], system=predictor.card.name, labels=labels)
    of_controls = None if labels is None else replace(labels, radeval=())
    del sheet["missing"]["controls"]
    sheet["controls"] = {}
    for name in CONTROLS:
        sheet["controls"][name] = None
        if name in scored and scored[name].rows:
            control = make_sheet(scored[name], system=name, labels=of_controls)
            sheet["controls"][name] = {part: control[part] for part in (*TASKS, "clinical")}
        else:
            sheet["missing"][f"controls.{name}"] = _why_no_control(name, run)
    # one family for Holm's correction
    sheet["comparisons"] = compare_systems({name: [one] for name, one in scored.items()}, against=MODEL)
    sheet["skipped_cases"] = dict(run.skipped)
    sheet["data"] = {**data, "num_cases": len(run.source.cases)}
    sheet["model"] = predictor.card.to_dict()
    sheet["grid"] = predictor.grid_spec.to_dict()
    return sheet


def _why_no_control(name: str, run: PredictionRun) -> str:
    if name == "blind":
        return NO_BLIND
    if not _has_controls(run):
        return "turned off with --no-controls"
    return "it needs at least two cases, of two patients" if name == "wrong_volume" else "no case was answered"


def _add_leaks(
    sheet: dict[str, Any], scored: Scored, training: Dataset | None, source: Dataset, progress: Progress
) -> None:
    """What training and test share, and the scores without the cases that leak."""
    if training is None:
        sheet["missing"]["leaks"] = NO_TRAINING
        return
    del sheet["missing"]["leaks"]
    leaks = find_leaks(training, source, progress=progress)
    leaking = set(leaks["leaking_cases"])
    keep = [place for place, row in enumerate(scored.rows) if row.volume not in leaking]
    leaks["scores_without_them"] = None
    if leaking and keep:
        file = PredictionFile(rows=tuple(scored.rows[place] for place in keep), format=scored.file.format)
        values = {name: values[keep] for name, values in scored.values.items()}
        found = make_sheet(replace(scored, file=file, values=values), system="without leaks")
        leaks["scores_without_them"] = {task: found[task] for task in TASKS}
    sheet["leaks"] = leaks
