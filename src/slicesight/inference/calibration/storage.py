"""Where is a calibration kept, and does it belong to these weights? Two files in the model's folder.

calibration.json: format, what it was made of, limits, curves, questions and terms: to be read by people too.
calibration.safetensors: the arrays. The weights' files are named by a fingerprint of their headers and of some of their
bytes, so that weights trained further are not taken for those that were calibrated.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from slicesight.data.answer_tolerance import read_rule
from slicesight.errors import InputError, ModelError
from slicesight.files import read_json_object, replacing, write_text
from slicesight.inference.calibration.calibration import Calibration, TopicGauge
from slicesight.inference.calibration.confidence import ConfidenceCurve
from slicesight.inference.calibration.gaussian import SubspaceGaussian, TwoClasses
from slicesight.inference.calibration.questions import Floats, QuestionGauge, TaughtQuestion
from slicesight.inference.calibration.strangeness import ScanGauge

CALIBRATION_FILE, ARRAYS_FILE = "calibration.json", "calibration.safetensors"
FORMAT = 1
SAMPLE_BYTES = 1 << 16
AGAIN = "run slicesight calibrate again, or remove the file"


def write_calibration(calibration: Calibration, folder: Path) -> tuple[Path, Path]:
    """Write both files into a model folder; the JSON, which names the arrays by their digest, comes last."""
    arrays = dict(_arrays(calibration))
    with replacing(folder / ARRAYS_FILE) as temporary:
        save_file(arrays, temporary)
        digest = hashlib.sha256(temporary.read_bytes()).hexdigest()
    scans, questions = calibration.scans, calibration.questions
    document = {
        "format": FORMAT,
        "weights": fingerprint(folder),
        "arrays": digest,
        "made": calibration.facts,
        "min_confidence": calibration.min_confidence,
        "tolerances": {topic: str(rule) for topic, rule in sorted(calibration.tolerances.items())},
        "curves": {
            kind: {"middle": curve.middle.tolist(), "scale": curve.scale.tolist(), "weights": curve.weights.tolist(),
                   "offset": curve.offset, "count": curve.count}
            for kind, curve in sorted(calibration.curves.items())
        },
        "scans": None if scans is None else _gauge_facts(scans),
        "scans_of_topics": [
            {"topics": sorted(group.topics), **_gauge_facts(group.scans)} for group in calibration.scans_of_topics
        ],
        "questions": None
        if questions is None
        else {
            "limits": questions.limits,
            "terms": {kind: sorted(own) for kind, own in questions.terms.items()},
            "answers": {kind: sorted(own) for kind, own in questions.answers.items()},
            "shapes": {kind: sorted(own) for kind, own in questions.shapes.items()},
            "taught": [[one.text, one.kind] for one in questions.questions],
        },
    }  # fmt: skip
    write_text(folder / CALIBRATION_FILE, text=json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    return folder / CALIBRATION_FILE, folder / ARRAYS_FILE


def read_calibration(folder: Path) -> Calibration | None:
    """A model folder's calibration; None where there is none.

    Raises:
        ModelError: it is damaged, of another format, or of other weights.
    """
    path = folder / CALIBRATION_FILE
    if not path.is_file():
        return None
    document = read_json_object(path, error=ModelError)
    if document.get("format") != FORMAT:
        raise ModelError(f"{path}: has the format {document.get('format')!r}, expected {FORMAT}; {AGAIN}.")
    if document.get("weights") != fingerprint(folder):
        raise ModelError(f"{path}: was made for other weights than those beside it; {AGAIN}.")
    arrays_path = folder / ARRAYS_FILE
    try:
        if hashlib.sha256(arrays_path.read_bytes()).hexdigest() != document["arrays"]:
            raise ModelError(f"{arrays_path}: is not the file that {path.name} was written with; {AGAIN}.")
        return _restore(document, {name: array.astype(np.float64) for name, array in load_file(arrays_path).items()})
    except (KeyError, TypeError, ValueError, AttributeError, OSError, SafetensorError, InputError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        raise ModelError(f"{path}: cannot be read ({reason}); {AGAIN}.") from error


def fingerprint(folder: Path) -> str:
    """SHA-256 of every weights file's name, length, header and three samples of its bytes; cheap for any size."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        if path.name == ARRAYS_FILE:
            continue
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
            digest.update(file.read(min(header, 1 << 26)))
            for place in (8 + header, size // 2, max(0, size - SAMPLE_BYTES)):
                file.seek(min(place, size))
                digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()


def _arrays(calibration: Calibration) -> Iterator[tuple[str, Any]]:
    scans, questions = calibration.scans, calibration.questions
    if questions is not None and questions.embeddings is not None:
        yield "questions.embeddings", questions.embeddings.astype(np.float16)
    if scans is not None:
        yield from _gauge_arrays(scans, "")
    for number, group in enumerate(calibration.scans_of_topics):
        yield from _gauge_arrays(group.scans, f"topics.{number}.")


def _gauge_facts(scans: ScanGauge) -> dict[str, Any]:
    return {
        "known": scans.known,
        "limit": scans.limit,
        "scales": scans.scales,
        "gaussians": {name: one.rest for name, one in scans.gaussians.items()},
        "flips": {name: [one.usual, one.changed] for name, one in scans.flips.items()},
    }


def _gauge_arrays(scans: ScanGauge, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, one in scans.gaussians.items():
        for part in ("means", "scale", "variances"):
            yield f"{prefix}gaussian.{name}.{part}", getattr(one, part).astype(np.float32)
        yield f"{prefix}gaussian.{name}.directions", one.directions.astype(np.float16)
    for name, rule in scans.flips.items():
        yield f"{prefix}flip.{name}", rule.weights.astype(np.float32)
    if scans.usual_size is not None:
        yield f"{prefix}usual_size", scans.usual_size.astype(np.float32)
    if scans.slice_means is not None:
        yield f"{prefix}slice_means", scans.slice_means.astype(np.float16)


def _restore_gauge(found: dict[str, Any], arrays: dict[str, Floats], prefix: str) -> ScanGauge:
    gaussians = {
        name: SubspaceGaussian(
            **{
                part: arrays[f"{prefix}gaussian.{name}.{part}"]
                for part in ("means", "scale", "variances", "directions")
            },
            rest=float(rest),
        )
        for name, rest in found["gaussians"].items()
    }
    flips = {
        name: TwoClasses(weights=arrays[f"{prefix}flip.{name}"], usual=float(usual), changed=float(changed))
        for name, (usual, changed) in found["flips"].items()
    }
    return ScanGauge(
        known=found["known"],
        gaussians=gaussians,
        slice_means=arrays.get(f"{prefix}slice_means"),
        flips=flips,
        scales={name: (float(middle), float(width)) for name, (middle, width) in found["scales"].items()},
        limit=float(found["limit"]),
        usual_size=arrays.get(f"{prefix}usual_size"),
    )


def _restore(document: dict[str, Any], arrays: dict[str, Floats]) -> Calibration:
    curves = {
        kind: ConfidenceCurve(
            **{part: np.array(one[part], dtype=np.float64) for part in ("middle", "scale", "weights")},
            offset=float(one["offset"]),
            count=int(one["count"]),
        )
        for kind, one in document["curves"].items()
    }
    found = document["scans"]
    scans = None if found is None else _restore_gauge(found, arrays, "")
    groups = tuple(
        TopicGauge(topics=frozenset(one["topics"]), scans=_restore_gauge(one, arrays, f"topics.{number}."))
        for number, one in enumerate(document.get("scans_of_topics", ()))
    )
    questions, found = None, document["questions"]
    if found is not None:
        questions = QuestionGauge(
            questions=tuple(TaughtQuestion(text=text, kind=kind) for text, kind in found["taught"]),
            terms={kind: frozenset(own) for kind, own in found["terms"].items()},
            limits={name: float(limit) for name, limit in found["limits"].items()},
            embeddings=arrays.get("questions.embeddings"),
            answers={kind: frozenset(own) for kind, own in found.get("answers", {}).items()},
            shapes={kind: frozenset(own) for kind, own in found.get("shapes", {}).items()},
        )
    return Calibration(
        curves=curves,
        scans=scans,
        questions=questions,
        scans_of_topics=groups,
        min_confidence=float(document["min_confidence"]),
        tolerances={topic: read_rule(rule) for topic, rule in document.get("tolerances", {}).items()},
        facts=document["made"],
    )
