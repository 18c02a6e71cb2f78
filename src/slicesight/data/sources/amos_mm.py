"""How does AMOS-MM become cases: a report of chest, abdomen and pelvis, and questions with four options?

Facts from https://era-ai-biomed.github.io/amos/tasks.html (1,287 training and 400 validation CT with reports; the test
set's reports are hidden) and from how entrants read its files (https://github.com/bowang-lab/AMOS-MM-Solution,
https://github.com/babbu3682/AMOS-MM-MI2RL): report_generation_train_val.json and vqa_train_val.json hold {"training":
[...], "validation": [...]}, an entry {"image": "./imagesTr/amos_0001.nii.gz", "labels": ...}, labels.report.findings
= {"chest", "abdomen", "pelvis"} (a region that is not in the scan is empty or missing) or labels.qa = [{"question",
"options": {"A" ... "D"}, "answer": "A", "type"}]. Three scans lie in imagesTr and in imagesVa; the entry decides.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from slicesight.data.manifest import LETTERS, Case, Conversation, Split
from slicesight.data.sources.collected import CollectedCases
from slicesight.data.sources.intake import Intake, SourceLocation, SourceRequest, UnusableError, closed_conversation
from slicesight.data.sources.tables import json_lists
from slicesight.errors import InputError

SOURCE = "amos-mm"
REGIONS = ("chest", "abdomen", "pelvis")
REGION_QUESTION = "Write the findings of the {} in this CT scan."
NOTES = ("AMOS-MM's list says CC BY-ND 4.0; read its terms before you pass anything on",)
_SPLITS: dict[str, Split] = {"training": "train", "validation": "val", "testing": "test", "test": "test"}
_IMAGE_FOLDERS = ("imagesTr", "imagesVa", "imagesTs")


def read_amos_mm(request: SourceRequest, intake: Intake) -> list[Case]:
    """One case per scan: a report question per region that has findings, and the questions with options."""
    lists = sorted(request.base.glob("*.json")) if request.source.is_dir() else [request.source]
    collected = CollectedCases(source=SOURCE, intake=intake)
    entries = [(path, key, line, item) for path in lists for key, line, item in json_lists(path, only_lists=False)]
    entries = [entry for entry in entries if entry[1] in _SPLITS and request.wants(_SPLITS[entry[1]])]
    if not entries:
        expected = "no list with training, validation or testing in it"
        raise InputError(f"{request.source}: {expected}; point at the folder of report_generation_train_val.json")
    intake.notes += NOTES
    for path, key, line, item in entries:
        where = SourceLocation(request.name_of(path), line)
        image, labels = (item.get("image"), item.get("labels")) if isinstance(item, dict) else (None, None)
        if not (isinstance(image, str) and image and isinstance(labels, dict)):
            intake.refuse("bad entry", f'found {str(item)[:60]!r}; write {{"image": ..., "labels": ...}}', where)
            continue
        name = PurePosixPath(image.replace("\\", "/")).name.removesuffix(".gz").removesuffix(".nii")
        try:
            asked = [*_reports(name, labels), *_questions(name, labels)]
        except UnusableError as error:
            intake.refuse("bad entry", f"{error}; correct it", where, case_id=name)
            continue
        if not asked:
            intake.leave_out("no text", "neither findings nor questions", where, case_id=name)
            continue
        scan = _volume(image, request)
        if scan is None:
            reason = f"{image}: not found; name the folder of imagesTr and imagesVa with --volumes"
            intake.refuse("missing volume", reason, where, case_id=name)
            continue
        collected.add(name, scan, asked, where, split=_SPLITS[key], patient=name)
    return collected.cases


def _reports(name: str, labels: dict[str, Any]) -> list[Conversation]:
    """One per region with findings; raises UnusableError."""
    report = labels.get("report")
    if report is None:
        return []
    findings = report.get("findings") if isinstance(report, dict) else None
    if not isinstance(findings, dict):
        raise UnusableError(f"labels.report has no findings by region, found {str(report)[:60]!r}")
    unknown = [region for region in findings if region not in REGIONS]
    if unknown:
        raise UnusableError(f"findings name the region {unknown[0]!r}, expected {', '.join(REGIONS)}")
    texts = {region: " ".join(str(findings.get(region) or "").split()) for region in REGIONS}
    return [
        Conversation(
            id=f"{name}#{region}", task="report", topic=region, question=REGION_QUESTION.format(region), answer=text
        )
        for region, text in texts.items()
        if text
    ]


def _questions(name: str, labels: dict[str, Any]) -> list[Conversation]:
    """The questions with options; raises UnusableError."""
    listed = labels.get("qa")
    if listed is None:
        return []
    if not isinstance(listed, list):
        raise UnusableError(f"labels.qa is {str(listed)[:60]!r}, expected a list of questions")
    found = []
    for number, item in enumerate(listed):
        options = item.get("options") if isinstance(item, dict) else None
        question = str(item.get("question") or "").strip() if isinstance(item, dict) else ""
        if not question or not isinstance(options, dict) or list(options) != list(LETTERS[: len(options)]):
            raise UnusableError(
                f"question {number} has not a question with options A, B and so on, found {str(item)[:60]!r}"
            )
        letter = str(item.get("answer") or "").strip()[:1].upper()
        if letter not in options or not letter:
            raise UnusableError(f"the answer of question {number} is {item.get('answer')!r}, which is no option")
        found.append(
            closed_conversation(
                f"{name}#qa{number}",
                topic=str(item.get("type") or "other").strip().lower(),
                question=question,
                choices=[str(text) for text in options.values()],
                answer=str(options[letter]),
                letter=letter,
            )
        )
    return found


def _volume(image: str, request: SourceRequest) -> Path | None:
    """The scan where the entry says it lies, else in any of the image folders."""
    parts = [part for part in PurePosixPath(image.replace("\\", "/")).parts if part not in (".", "/")]
    for root in [*([request.volumes] if request.volumes else []), request.base]:
        for path in (
            root.joinpath(*parts),
            *(root / folder / parts[-1] for folder in _IMAGE_FOLDERS),
            root / parts[-1],
        ):
            if path.is_file():
                return path
    return None
