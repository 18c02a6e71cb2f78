"""Which files does a benchmark's own scorer take, and what do such files say here? Written from answers, and read back.

ct-rate       reports.json, findings.json as https://github.com/forithmus/VLM3D-Dockers takes them (25f9c7b)
3d-rad        <table>/eval_open_vqa.csv, eval_close_vqa.csv as its M3D/Bench/eval/eval_3DRAD.py writes them (2e66113)
deeptumorvqa  mc.json, freeform.json: `deeptumorvqa-eval --output FILE` goes on from them, so it only scores (1df7460)
amos-mm       reports.json, vqa.json as the challenge's format check wants them (task_*_testing_submission_checking.py
              in https://github.com/babbu3682/AMOS-MM-MI2RL)
rexgroundingct  none: its scorer takes voxel masks, and an answer with slice scores is no mask
"""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from slicesight.data.choices import read_choice
from slicesight.data.manifest import LETTERS
from slicesight.data.sources.amos_mm import REGIONS
from slicesight.data.sources.ct_rate import FINDINGS
from slicesight.data.sources.deeptumorvqa import CLOSED, OPEN, SEPARATOR
from slicesight.errors import InputError
from slicesight.evaluation.predictions import Prediction, PredictionFile, prediction
from slicesight.files import write_text

RAD_CLOSED = ("Question Aspect", "Question", "Answer", "Answer Choice", "Pred", "Correct")
RAD_OPEN = ("Question Aspect", "Question", "Answer", "Pred")
_FINDING_OF = {finding.lower(): finding for finding in FINDINGS}


def write_submission(name: str, rows: Sequence[Prediction], folder: Path) -> list[Path]:
    """Write the benchmark's result files of these answers; none where its scorer takes no such thing."""
    texts = WRITERS[name](rows) if name in WRITERS else {}
    written = []
    for place, text in texts.items():
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text=text)
        written.append(path)
    return written


def read_deeptumorvqa_results(path: Path, document: Mapping[str, Any]) -> PredictionFile:
    """The result file of DeepTumorVQA's evaluator: {"results": [{"qid", "raw_output", "correct_option", ...}]}.

    Whether it was asked with choices is read from its metrics, which count parsed letters only then; a file without
    metrics counts as such.

    Raises:
        InputError: a result lacks a field or its question is in the file already; names the entry.
    """
    by_subtype = (document.get("metrics") or {}).get("by_subtype") or {}
    closed = not by_subtype or any("n_parsed" in found for found in by_subtype.values())
    rows, places = [], []
    first: dict[Any, int] = {}
    for number, item in enumerate(document["results"]):
        where = f"{path.name} result {number}"
        needed = ("qid", "image_id", "question_type", "question_subtype", "correct_option" if closed else "answer")
        lacking = [key for key in needed if not isinstance(item, dict) or item.get(key) is None]
        if lacking:
            raise InputError(f"{where}: no {lacking[0]!r}; expected a result of deeptumorvqa-eval")
        if item["qid"] in first:
            raise InputError(f"{where}: qid {item['qid']!r} is result {first[item['qid']]} already; keep one")
        first[item["qid"]] = number
        said = item.get("pred_answer") or item.get("raw_output") or ""
        fields = {
            "id": str(item["qid"]) + (CLOSED if closed else OPEN),
            "task": "closed" if closed else "open",
            "topic": f"{str(item['question_type']).lower()}{SEPARATOR}{item['question_subtype']}",
            "question": str(item.get("question") or ""),
            "prediction": str(said),
            "answer": str(item.get("answer") or ""),
            "answer_choice": str(item["correct_option"]).strip().upper() if closed else None,
            "volume": str(item["image_id"]),
        }
        rows.append(prediction(fields, where=where))
        places.append(where)
    return PredictionFile(rows=tuple(rows), format="deeptumorvqa-json", places=tuple(places))


def letter_of(row: Prediction) -> str | None:
    """The letter a closed answer names, else that of what was said when held to the choices."""
    for said in (row.prediction, row.choice or ""):
        if letter := read_choice(said, row.choices).letter:
            return letter
    return None


def is_present(row: Prediction) -> bool | None:
    """Whether a yes-or-no answer says that the finding is there; None where it says neither."""
    letter = letter_of(row)
    if letter is None or not row.choices or LETTERS.index(letter) >= len(row.choices):
        return None
    return row.choices[LETTERS.index(letter)].strip().lower() == "yes"


def _vlm3d(rows: Sequence[Prediction]) -> dict[str, str]:
    reports = [
        {"input_image_name": f"{row.volume}.mha", "report": row.prediction} for row in rows if row.task == "report"
    ]
    findings: dict[str, dict[str, float]] = defaultdict(dict)
    for row in rows:
        if row.task == "closed" and row.topic in _FINDING_OF:
            findings[row.volume or ""][_FINDING_OF[row.topic]] = float(is_present(row) is True)
    said = [{"input_image_name": f"{volume}.mha", "probabilities": labels} for volume, labels in findings.items()]
    texts = {}
    if reports:
        value = {"name": "Generated reports", "type": "Report generation", "generated_reports": reports}
        texts["reports.json"] = _json([{"outputs": [{"value": {**value, "version": {"major": 1, "minor": 0}}}]}])
    if said:
        texts["findings.json"] = _json([{"outputs": [{"value": {"predictions": said}}]}])
    return texts


def _three_d_rad(rows: Sequence[Prediction]) -> dict[str, str]:
    tables: dict[str, list[Prediction]] = defaultdict(list)
    for row in rows:
        name = "eval_close_vqa.csv" if row.task == "closed" else "eval_open_vqa.csv"
        tables[f"{row.id.rpartition(':')[0]}/{name}"].append(row)
    return {place: _rad_table(held) for place, held in tables.items()}


def _rad_table(rows: Sequence[Prediction]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    closed = rows[0].task == "closed"
    writer.writerow(RAD_CLOSED if closed else RAD_OPEN)
    for row in rows:
        if closed:
            listed = " ".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, row.choices or (), strict=False))
            right = int(f"{row.answer_choice}." in row.prediction)
            question = f"{row.question} Choices: {listed}"
            writer.writerow([row.topic, question, row.answer, row.answer_choice, row.prediction, right])
        else:
            writer.writerow([row.topic, row.question, row.answer, row.prediction])
    return text.getvalue()


def _deeptumorvqa(rows: Sequence[Prediction]) -> dict[str, str]:
    texts = {}
    for name, task, ending in (("mc.json", "closed", CLOSED), ("freeform.json", "open", OPEN)):
        results = [
            {
                "qid": row.id.removesuffix(ending),
                "image_id": row.volume,
                "question_subtype": row.topic.partition(SEPARATOR)[2],
                "question_type": row.topic.partition(SEPARATOR)[0],
                "raw_output": row.prediction,
                "pred_answer": row.prediction,
                "correct_option": row.answer_choice,
                "answer": row.answer,
            }
            for row in rows
            if row.task == task
        ]
        if results:
            texts[name] = _json({"n_processed": len(results), "results": results})
    return texts


def _amos_mm(rows: Sequence[Prediction]) -> dict[str, str]:
    reports: dict[str, dict[str, str]] = defaultdict(lambda: dict.fromkeys(REGIONS, ""))
    asked: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row.task == "report" and row.topic in REGIONS:
            reports[row.volume or ""][row.topic] = row.prediction
        elif row.task == "closed":
            options = dict(zip(LETTERS, row.choices or (), strict=False))
            said = {"question": row.question, "options": options, "prediction": letter_of(row), "type": row.topic}
            asked[row.volume or ""].append(said)
    texts = {}
    if reports:
        entries = _entries((volume, {"report": {"findings": findings}}) for volume, findings in reports.items())
        texts["reports.json"] = _json({"testing": entries})
    if asked:
        texts["vqa.json"] = _json({"testing": _entries((volume, {"qa": held}) for volume, held in asked.items())})
    return texts


def _entries(labels: Iterable[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    return [{"image": f"{volume}.nii.gz", "labels": held} for volume, held in labels]


def _json(document: Any) -> str:
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


WRITERS: Mapping[str, Callable[[Sequence[Prediction]], dict[str, str]]] = {
    "ct-rate": _vlm3d,
    "3d-rad": _three_d_rad,
    "deeptumorvqa": _deeptumorvqa,
    "amos-mm": _amos_mm,
}
