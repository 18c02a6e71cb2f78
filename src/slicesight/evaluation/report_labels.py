"""What do the reports of a run say clinically? Labels by the user's choice, their figures, and RadEval's.

Labels of what was said and of what is true come from the rules, from a classifier that reads the texts, or from a csv.
A scan is one row: the reports of one scan are read as one text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from slicesight.data.answer_text import final_text
from slicesight.data.choices import has_truth
from slicesight.errors import InputError
from slicesight.evaluation.metrics.clinical import clinical_part, missing_of
from slicesight.evaluation.metrics.findings import label_texts
from slicesight.evaluation.metrics.label_models import label_with_model
from slicesight.evaluation.metrics.labels import Labels, Uncertain, matched, read_labels, volume_name
from slicesight.evaluation.metrics.radeval import radeval_scores
from slicesight.evaluation.predictions import Prediction
from slicesight.evaluation.statistics import mean_interval

RULES = "rules"
NO_LABELS = "no labels asked for; --labels rules reads them from the reports"
NO_REPORTS = "there is no report line with a true answer to read labels from"


@dataclass(frozen=True, kw_only=True)
class LabelOptions:
    """What a user chose.

    said: RULES, a classifier, or a csv. true: the same for the truth, None for the same as said. uncertain: what a
    finding that is only possible counts as. radeval: RadEval's metrics; radeval_python: of the environment that has it.
    """

    said: str | None = None
    true: str | None = None
    uncertain: Uncertain = "present"
    radeval: tuple[str, ...] = ()
    radeval_python: Path | None = None

    def __post_init__(self) -> None:
        if self.said is None and self.true is not None:
            raise InputError("--true-labels belongs to --labels; say how what was said is to be labelled")
        if self.true is None and self.said is not None and is_csv(self.said):
            raise InputError(f"--labels {self.said} needs --true-labels: the true labels, as a csv or rules")


@dataclass(frozen=True, kw_only=True)
class Clinical:
    """A run's clinical part of the sheet, why something of it is null, and the tables it is computed from."""

    part: dict[str, Any] | None
    missing: Mapping[str, str] = field(default_factory=dict)
    said: Labels | None = None
    true: Labels | None = None


def is_csv(source: str) -> bool:
    """Whether a source of labels is a table."""
    return source.lower().endswith(".csv")


def clinical_of(rows: Sequence[Prediction], options: LabelOptions) -> Clinical:
    """The clinical part of a run's rows.

    Raises:
        InputError: a table or classifier cannot be used, or the tables do not speak of the same scans and findings.
    """
    if options.said is None:
        return Clinical(part=None, missing={"clinical": NO_LABELS})
    truth = options.true or options.said
    told = _texts(rows, needs_truth=not is_csv(truth))
    if not told and not is_csv(options.said):
        return Clinical(part=None, missing={"clinical": NO_REPORTS})
    said = _labels(options.said, {name: text for name, (text, _) in told.items()}, options)
    true = _labels(truth, {name: text for name, (_, text) in told.items()}, options)
    said, true, num_left = matched(said, true, said_name=_name(options.said), true_name=_name(truth))
    part = clinical_part(said, true)
    missing = missing_of(part)
    if num_left:
        missing["clinical.volumes"] = (
            f"{num_left} of {num_left + len(true.volumes)} scans of {_name(truth)} were said nothing of; "
            "they are in no figure"
        )
    part["num_left_out"] = num_left
    return Clinical(part=part, missing=missing, said=said, true=true)


def radeval_of(rows: Sequence[Prediction], options: LabelOptions) -> tuple[dict[str, Any] | None, dict[str, str]]:
    """RadEval's figures of the report lines, and what is missing with the reason."""
    if not options.radeval:
        return None, {}
    told = [row for row in rows if row.task == "report" and has_truth(row)]
    if not told:
        return None, {f"radeval.{name}": NO_REPORTS for name in options.radeval}
    pairs = [(final_text(row.prediction).text, row.answer.strip()) for row in told]
    found = radeval_scores(pairs, options.radeval, python=options.radeval_python)
    has_volumes = all(row.volume is not None for row in told)
    volumes = [row.volume or "" for row in told] if has_volumes else None
    part: dict[str, Any] = {"version": found.version, "values": dict.fromkeys(found.missing)}
    for name, values in found.values.items():
        interval = mean_interval(np.array(values), volumes)
        part["values"][name] = {"mean": interval.value, "ci95": interval.ends if has_volumes else None}
    return part, {f"radeval.{name}": why for name, why in found.missing.items()}


def _texts(rows: Sequence[Prediction], *, needs_truth: bool) -> dict[str, tuple[str, str]]:
    """Scan -> (what was said of it, what is true); a line without a scan's name is a scan of its own."""
    found: dict[str, tuple[str, str]] = {}
    for row in rows:
        if row.task != "report" or (needs_truth and not has_truth(row)):
            continue
        name = volume_name(row.volume or row.id)
        said, true = found.get(name, ("", ""))
        found[name] = (f"{said}\n{final_text(row.prediction).text}", f"{true}\n{row.answer}")
    return found


def _labels(source: str, texts: Mapping[str, str], options: LabelOptions) -> Labels:
    if is_csv(source):
        return read_labels(Path(source), uncertain=options.uncertain)
    if source == RULES:
        return label_texts(tuple(texts), tuple(texts.values()), uncertain=options.uncertain)
    return label_with_model(source, tuple(texts), tuple(texts.values()))


def _name(source: str) -> str:
    return Path(source).name if is_csv(source) else f"the labels by {source}"
