"""Does a small Med-2E3 answer questions about real scans that it cannot answer without them? Soft-tissue sarcoma.

    python benchmarks/sts_vqa.py STS_FOLDER --parts PARTS_FOLDER --out runs/sts-vqa

makes the questions (sts_questions.py), prepares the cubes, gives the connectors a stage 0 (sts_start.py), trains
recipes/sts-vqa.yaml and its blind twin (the same language model on the same questions, without any scan) with three
seeds each, asks the test patients and prints the table; the last line is JSON. PARTS_FOLDER holds smollm2-135m
(SmolLM2-135M-Instruct) and vit-s14 (a ViT-S/14 with DINOv2's layout); the 3D encoder is that of phantom-tiny, which had
seen synthetic CT only. What is done already is kept, so --runs model-2 makes one run at a time. About half an hour of
one thread in all. Beside the models stand, without a network:

    majority   the commonest answer of the training questions of the kind
    position   the commonest answer of those training questions that agree in all that can be known without looking:
               slices, rows and columns of the file, their spacing, the slices asked about

Intervals draw patients, the tests compare patients; every number is over the test patients 027–034.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sts_questions import KINDS, SOURCE, arguments_of, guessed_from_whole_scans, make, read_scans
from sts_start import start_folder

import slicesight
from slicesight.data.choices import is_right, with_letter
from slicesight.data.dataset import open_dataset
from slicesight.data.manifest import Case, Conversation, read_manifest
from slicesight.data.preprocess import prepare_volumes
from slicesight.evaluation.predict import MODEL, PredictionRun, open_run, predict
from slicesight.evaluation.predictions import Prediction, read_jsonl, to_lines
from slicesight.evaluation.statistics import compare, holm, mean_interval
from slicesight.inference.predictor import Predictor
from slicesight.io.loading import read_volume
from slicesight.training.recipe import Recipe, read_recipe
from slicesight.training.run import run_recipe

RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "sts-vqa.yaml"
ARMS = ("model", "blind")
BLIND_SHARE = 0.4
"""Of the model's steps: without a scan there are few different questions, and their answers' shares are soon learnt."""


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    scans = options.out / "scans"
    if not (scans / "manifest.jsonl").exists():
        make(options.sts, scans, train=options.train, test=options.test, synthetic=options.synthetic)
        say(f"wrote {scans}")
    recipe = read_recipe(RECIPE, tuple(options.set))
    prepare_volumes(scans / "manifest.jsonl", options.out / "prepared", spec=recipe.grid)
    for run in options.runs:
        answered(options, *run.rsplit("-", 1))
    wanted = {f"{arm}-{seed}" for arm in ARMS for seed in options.seeds}
    if missing := sorted(name for name in wanted if not (options.out / name / "predictions.jsonl").exists()):
        say(f"to do: {', '.join(missing)}; the table comes when they are there")
        return
    report(options)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments_of(parser)
    parser.add_argument("--parts", type=Path, default=Path("runs/parts"))
    parser.add_argument("--encoder3d", default="phantom-tiny", help="the model whose 3D encoder is taken")
    parser.add_argument("--out", type=Path, default=Path("runs/sts-vqa"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--runs", nargs="*", help="such as model-1 blind-1; all of them by default")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the recipe")
    options = parser.parse_args(arguments)
    if options.runs is None:
        options.runs = [f"{arm}-{seed}" for seed in options.seeds for arm in ARMS]
    return options


# --- training and asking ---------------------------------------------------------------------------------------------


def plan(options: argparse.Namespace, arm: str, seed: int) -> Recipe:
    """The recipe of one run; the blind twin learns the same closed questions with the language model alone."""
    changes = [
        f"output_dir={options.out / f'{arm}-{seed}' / 'run'}",
        f"data={{prepared: {options.out / 'prepared'}, split: train}}",
        f"parts.language_model={options.parts / 'smollm2-135m'}",
        f"parts.vision2d={options.parts / 'vit-s14'}",
        f"parts.vision3d={options.out / 'encoder3d'}",
        f"feature_cache={options.out / 'features'}",
        f"seed={seed}",
    ]
    recipe = read_recipe(RECIPE, (*changes, *options.set))
    if arm == "model":
        return recipe
    last = recipe.stages[-1]
    last = replace(last, trainable=(), steps=max(1, round(BLIND_SHARE * last.steps)))
    return replace(recipe, name=f"{recipe.name}-blind", see_volume=False, feature_cache=None, stages=(last,))


def answered(options: argparse.Namespace, arm: str, seed: str) -> None:
    """Train one run and ask it, unless that was done."""
    folder = options.out / f"{arm}-{seed}"
    path = folder / "predictions.jsonl"
    if path.exists() and (folder / "minutes.json").exists():
        return
    recipe = plan(options, arm, int(seed))
    recipe = replace(recipe, parts=None, init=str(start_folder(options.out, recipe, options.encoder3d)))
    started = time.process_time()
    run_recipe(recipe, resume=(folder / "run").is_dir())
    trained = time.process_time()
    predictor = slicesight.load(folder / "run" / "model")
    source = open_dataset(options.out / "prepared", split="test")
    if arm == "model":
        run = PredictionRun(folder=folder, source=source, systems=(MODEL,))
        open_run(run, predictor)
        predict(run, predictor, progress=lambda done, total: say(f"{done} of {total}") if done % 20 == 0 else None)
    else:
        path.write_text(to_lines(ask_without_scans(predictor, source.cases)), encoding="utf-8")
    minutes = {"training": (trained - started) / 60, "asking": (time.process_time() - trained) / 60}
    (folder / "minutes.json").write_text(json.dumps(minutes) + "\n", encoding="utf-8")
    say(f"{arm}-{seed}: {minutes['training']:.1f} CPU minutes of training, {minutes['asking']:.1f} of asking")


def ask_without_scans(predictor: Predictor, cases: Sequence[Case]) -> list[Prediction]:
    """What a blind model says; a question that is put twice is answered once."""
    prompts = sorted({asked.prompt for case in cases for asked in case.conversations})
    said = {}
    for prompt in prompts:
        inputs = predictor.processor([prompt], volume_index=[[-1]])
        inputs.pop("volume_index")
        with torch.inference_mode():
            ids = predictor.model.generate(**inputs.to(predictor.model.device), do_sample=False, max_new_tokens=12)
        (text,) = predictor.processor.decode_answers(ids, num_prompt_tokens=inputs["input_ids"].shape[1])
        said[prompt] = with_letter(prompt, text)
    return [row for case in cases for row in rows_of(case, [said[asked.prompt] for asked in case.conversations])]


def rows_of(case: Case, said: Iterable[str]) -> list[Prediction]:
    return [
        Prediction(id=f"{case.id}/{number}", volume=case.id, prediction=text, **facts_of(asked))
        for number, (asked, text) in enumerate(zip(case.conversations, said, strict=True))
    ]


def facts_of(asked: Conversation) -> dict[str, Any]:
    return asked.model_dump(include={"task", "topic", "question", "answer", "answer_choice", "choices"})


# --- without a network -----------------------------------------------------------------------------------------------


def answers_by_position(training: Sequence[Case], cases: Sequence[Case], scans: Path) -> list[Prediction]:
    """The commonest training answer among questions that agree in everything but the pixels."""
    counted: dict[tuple[Any, ...], Counter[str]] = defaultdict(Counter)
    for case in training:
        for asked in case.conversations:
            counted[position_of(case, asked, scans)][asked.answer] += 1
    by_kind = commonest_answers(training)
    rows = []
    for case in cases:
        keys = [position_of(case, asked, scans) for asked in case.conversations]
        said = [
            counted[key].most_common(1)[0][0] if key in counted else by_kind[asked.topic]
            for key, asked in zip(keys, case.conversations, strict=True)
        ]
        rows += rows_of(case, said)
    return rows


def position_of(case: Case, asked: Conversation, scans: Path) -> tuple[Any, ...]:
    """What is known of a question without a look: the file's shape and spacing in stored order, and its words."""
    volume = read_volume(scans / case.volume, unit="arbitrary")
    order = [volume.acquisition_axis, *(axis for axis in range(3) if axis != volume.acquisition_axis)]
    spacing = [round(volume.spacing_mm[axis], 2) for axis in order]
    return (asked.question, *(volume.shape[axis] for axis in order), *spacing)


def commonest_answers(training: Sequence[Case]) -> dict[str, str]:
    counted: dict[str, Counter[str]] = defaultdict(Counter)
    for case in training:
        for asked in case.conversations:
            counted[asked.topic][asked.answer] += 1
    return {kind: found.most_common(1)[0][0] for kind, found in counted.items()}


# --- the table -------------------------------------------------------------------------------------------------------


def report(options: argparse.Namespace) -> None:
    """Print the table and, as its last line, everything as JSON."""
    every = [case for case in read_manifest(options.out / "scans" / "manifest.jsonl") if case.source == SOURCE]
    training, cases = ([case for case in every if case.split == split] for split in ("train", "test"))
    common = commonest_answers(training)
    systems = {
        "majority": [
            [row for case in cases for row in rows_of(case, [common[asked.topic] for asked in case.conversations])]
        ],
        "position": [answers_by_position(training, cases, options.out / "scans")],
    }
    for arm in ARMS:
        systems[arm] = [read_jsonl(options.out / f"{arm}-{seed}" / "predictions.jsonl") for seed in options.seeds]
    table = make_table(systems, {case.id: str(case.patient) for case in cases})
    table["whole_scans"] = guessed_from_whole_scans(list(read_scans(options.sts)))
    print("\n".join(table_lines(table)))
    uncut = ", ".join(f"{kind} {100 * value:.0f} %" for kind, value in table["whole_scans"].items())
    print(f"\nWithout the cubes, of whole scans, position alone would be right: {uncut}.")
    table["minutes"] = {
        f"{arm}-{seed}": json.loads((options.out / f"{arm}-{seed}" / "minutes.json").read_text())
        for arm in ARMS
        for seed in options.seeds
    }
    table["facts"] = json.loads((options.out / "scans" / "facts.json").read_text())
    print(json.dumps(table))


def make_table(systems: Mapping[str, Sequence[Sequence[Prediction]]], patient_of: Mapping[str, str]) -> dict[str, Any]:
    """Accuracy of every system on every kind with its interval by patient, and the paired tests against the model.

    A value is a question's share of right answers over the seeds; Holm's correction is over the kinds of one pair.
    """
    table: dict[str, Any] = {"num_patients": len(set(patient_of.values())), "kinds": {}, "tests": {}}
    right = {name: [right_by_question(rows) for rows in runs] for name, runs in systems.items()}
    asked = {row.id: row for row in systems["majority"][0]}
    groups = {kind: [row for row in asked.values() if row.topic == kind] for kind in KINDS}
    groups["all"] = list(asked.values())
    for kind, rows in groups.items():
        patients = [patient_of[str(row.volume)] for row in rows]
        entry: dict[str, Any] = {"num_questions": len(rows), "num_choices": len(rows[0].choices or ())}
        for name, runs in right.items():
            values = np.array([[run[row.id] for row in rows] for run in runs])
            interval = mean_interval(values.mean(axis=0), patients)
            entry[name] = {**interval.to_dict(), "seeds": values.mean(axis=1).tolist()}
        table["kinds"][kind] = entry
    for other in ("blind", "majority", "position"):
        found = {}
        for kind, rows in groups.items():
            pair = [[by_patient(run, rows, patient_of) for run in right[name]] for name in ("model", other)]
            found[kind] = compare(*pair)
        corrected = holm([test.p for test in found.values()])
        table["tests"][other] = {
            kind: replace(test, p_holm=p).to_dict() for (kind, test), p in zip(found.items(), corrected, strict=True)
        }
    return table


def right_by_question(rows: Iterable[Prediction]) -> dict[str, float]:
    return {row.id: float(is_right(row.prediction, row)) for row in rows}


def by_patient(
    right: Mapping[str, float], rows: Sequence[Prediction], patient_of: Mapping[str, str]
) -> dict[str, float]:
    values = defaultdict(list)
    for row in rows:
        values[patient_of[str(row.volume)]].append(right[row.id])
    return {patient: statistics.mean(found) for patient, found in values.items()}


def table_lines(table: Mapping[str, Any]) -> list[str]:
    """The table in Markdown, in percent."""
    names = ("model", "blind", "position", "majority")
    heads = [
        "kind (answers)",
        "questions",
        "Med-2E3 (95 % CI)",
        "its seeds",
        "trained blind",
        "position only",
        "majority",
        "Med-2E3 - blind (95 % CI)",
        "p, Holm",
    ]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for kind, entry in table["kinds"].items():
        test = table["tests"]["blind"][kind]
        model, *others = (entry[name] for name in names)
        seeds = ", ".join(f"{100 * value:.0f}" for value in model["seeds"])
        name = kind if kind == "all" else f"{kind} ({entry['num_choices']})"
        cells = [name, str(entry["num_questions"]), with_interval(model["value"], model["ci95"]), seeds]
        cells += [f"{100 * other['value']:.1f}" for other in others]
        cells += [with_interval(test["difference"], test["ci95"], sign="+"), f"{test['p_holm']:.3f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def with_interval(value: float, ends: Sequence[float], *, sign: str = "") -> str:
    return f"{100 * value:{sign}.1f} ({100 * ends[0]:{sign}.1f} to {100 * ends[1]:{sign}.1f})"


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    main()
