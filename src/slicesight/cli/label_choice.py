"""How is each system's report labelled? Options of `score` and `evaluate`, refused before anything is scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slicesight.cli.scoring import EvaluateOptions, ScoreOptions
from slicesight.errors import InputError
from slicesight.evaluation.metrics.clinical import compare_clinical
from slicesight.evaluation.metrics.labels import is_label_table, read_labels
from slicesight.evaluation.predictions import PredictionFile
from slicesight.evaluation.report_labels import LabelOptions, clinical_of, is_csv
from slicesight.evaluation.sheet import Scored


def label_tables(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """({system: csv of labels}, the other arguments)."""
    tables, files = {}, []
    for argument in arguments:
        name, equals, path = argument.partition("=")
        if not equals or Path(argument).exists():
            name, path = Path(argument).stem, argument
        if is_label_table(Path(path)):
            if name in tables:
                raise InputError(f"{argument}: {name} has labels already; give each system its own NAME=FILE.csv")
            tables[name] = path
        else:
            files.append(argument)
    return tables, files


def labels_of_score(
    options: ScoreOptions, systems: Mapping[str, Sequence[PredictionFile]], tables: Mapping[str, str]
) -> dict[str, LabelOptions]:
    """How the findings of each system are labelled; the tables are read once here, before anything is scored."""
    if tables and options.true_labels is None:
        raise InputError(f"{next(iter(tables.values()))} holds labels; name the true ones with --true-labels FILE.csv")
    chosen: dict[str | None, str] = {}
    for given in options.labels or ():
        name, equals, path = given.partition("=")
        key, source = (name, path) if equals and not Path(given).exists() else (None, given)
        if key is not None and key not in systems:
            raise InputError(f"--labels {given}: no system is called {key}; there are {', '.join(systems) or 'none'}")
        if key in chosen:
            raise InputError(f"--labels {given}: said already; name each system's csv as NAME=FILE.csv")
        if key is None and is_csv(source) and len(systems) > 1:
            raise InputError(f"--labels {given}: there are {len(systems)} systems; say whose it is, NAME={given}")
        chosen[key] = source
    if options.true_labels is not None and not chosen and not tables:
        raise InputError("--true-labels belongs to --labels; say how what was said is to be labelled")
    found = {}
    for name in (*systems, *tables):
        said = tables.get(name, chosen.get(name, chosen.get(None)))
        found[name] = LabelOptions(
            said=said,
            true=options.true_labels if said is not None else None,
            uncertain=options.uncertain,
            radeval=tuple(options.radeval or ()),
            radeval_python=options.radeval_python,
        )
    for source in {option for one in found.values() for option in (one.said, one.true) if option and is_csv(option)}:
        read_labels(Path(source))
    return found


def labels_of_evaluate(options: EvaluateOptions) -> LabelOptions:
    """How the findings of what a model is about to say are labelled; a csv of true labels is read once here."""
    if options.labels is not None and is_csv(options.labels):
        raise InputError(f"--labels {options.labels}: evaluate labels what it asks; expected rules or a classifier")
    if options.true_labels is not None and is_csv(options.true_labels):
        read_labels(Path(options.true_labels))
    return LabelOptions(
        said=options.labels,
        true=options.true_labels,
        uncertain=options.uncertain,
        radeval=tuple(options.radeval or ()),
        radeval_python=options.radeval_python,
    )


def compare_labels(scored: Mapping[str, Sequence[Scored]], labels: Mapping[str, LabelOptions]) -> list[dict[str, Any]]:
    """Paired tests of the systems' findings; of a system with several seeds, the first."""
    found = {name: clinical_of(runs[0].rows, labels[name]) for name, runs in scored.items()}
    return compare_clinical({name: (one.said, one.true) for name, one in found.items() if one.said and one.true})
