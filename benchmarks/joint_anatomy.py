"""Does a Med-2E3 of real scans answer better with a 3D encoder that Med3DInsight has pre-trained? Several seeds.

    python benchmarks/joint_anatomy.py PREPARED --init runs/anatomy-small-stage0/stage0 --parts PARTS --out OUT

PREPARED is what `slicesight prepare` made for anatomy-small (docs/how-to/anatomy-small.md). All arms start from the
language model and the 2D encoder of --init, with a fresh connector behind the 3D encoder. The encoder is random
("random"), pre-trained on --views training views of as many patients as there are, without labels ("insight"; with
patch tokens of the 2D teacher "dense"), or the one that stage 0 taught with label maps ("labels"). Each is trained by
the first two stages of recipes/anatomy-small.yaml, --steps long, in three settings: the whole method with a 3D
encoder that learns on ("3d+2d"), what the 3D encoder alone carries ("3d"), and the same with the encoder as it came
("3d-frozen"). Then it answers the split's questions; closed ones are held to their choices. The unit of every test is
the patient; all comparisons are one Holm family. A run that is finished is kept. The split is val until everything is
chosen. Last line: JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from anatomy_scores import answered, score
from joint_phantoms import ENCODER_FIELDS, start_folder

from slicesight.data.dataset import PreparedDataset, open_dataset
from slicesight.evaluation.statistics import compare, holm
from slicesight.models.med2e3.modeling import Med2E3ForConditionalGeneration
from slicesight.training.pretraining import run_pretraining
from slicesight.training.pretraining_recipe import read_pretrain_recipe, read_triplet_settings
from slicesight.training.recipe import read_recipe
from slicesight.training.run import run_recipe
from slicesight.training.triplets.making import make_triplets

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
SETTINGS = ("3d+2d", "3d", "3d-frozen")
ARMS = {"insight": (), "dense": ("dense_weight=1",), "random": None, "labels": None}


def views(args: argparse.Namespace) -> Path:
    """The list of training views, written as the model sees them: one a patient, then a second one, up to --views."""
    listed = args.out / "views" / "views.jsonl"
    if listed.exists():
        return listed
    source = open_prepared(args, "train")
    by_patient: dict[str, list[Any]] = defaultdict(list)
    for case in source.cases:
        by_patient[str(case.patient)].append(case)
    rounds = itertools.zip_longest(*by_patient.values())
    chosen = [case for cases in rounds for case in cases if case is not None][: args.views]
    listed.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, case in enumerate(chosen):
        name = f"view{number:05d}.npy"
        np.save(listed.parent / name, np.rint(source.voxels(case) * 255).astype(np.uint8))
        lines.append(json.dumps({"image": name, "patient": str(case.patient), "split": "train"}) + "\n")
    listed.write_text("".join(lines))
    return listed


def pretrained(args: argparse.Namespace, arm: str) -> Path:
    """The folder of the arm's pre-trained 3D encoder, made on first use; the arms share the triplets."""
    config = Med2E3ForConditionalGeneration.from_pretrained(args.init).config.vision3d_config
    size = json.dumps(list(config.image_size))
    about = (f"image_encoder={args.parts / 'vit-s14'}", f"text_encoder={args.parts / 'minilm'}", f"size={size}",
             "text=position", "region=body", "window=auto", "crop_foreground=false", "picture_size=112",
             "image_encoder_size=112", "slices_per_plane=8", "dense_components=64", "encode_bf16=true")  # fmt: skip
    settings = read_triplet_settings(RECIPES / "joint-pretrain.yaml", (*about, *args.triplets))
    make_triplets(views(args), args.out / "triplets", settings)
    own = json.dumps({**{name: getattr(config, name) for name in ENCODER_FIELDS}, "feature_size": 8})
    changes = (f"data={args.out / 'triplets'}", f"output_dir={args.out / 'pretrained' / arm}",
               f"backbone.settings={own}", *(ARMS[arm] or ()), *args.pretrain)  # fmt: skip
    return run_pretraining(read_pretrain_recipe(RECIPES / "joint-pretrain.yaml", changes), resume=True)


def trained(args: argparse.Namespace, arm: str, setting: str, seed: int) -> Path:
    """The folder of one trained model."""
    folder = args.out / "runs" / setting / f"{arm}-{seed}"
    if (folder / "model").is_dir():
        return folder / "model"
    init = None if ARMS[arm] is None else pretrained(args, arm)
    start = start_folder(args, arm, seed, encoder=init, plane=None)
    changes = (f"output_dir={folder}", f"init={start}", f"seed={seed}", f"data.prepared={args.prepared}",
               f"model.fusion={setting.removesuffix('-frozen')}", "validation=null")  # fmt: skip
    recipe = read_recipe(RECIPES / "anatomy-small.yaml", changes)
    unused = () if setting == "3d+2d" else ("projector_2d", "vision2d", "scorer", "plane_embedding")
    frozen = ("vision3d",) if setting == "3d-frozen" else ()
    stages = []
    for stage, steps in zip(recipe.stages, args.steps, strict=False):
        parts = tuple(part for part in stage.trainable if part not in (*unused, *frozen))
        weight = 0.0 if "scorer" in unused else stage.score_weight
        stages.append(replace(stage, trainable=parts, steps=steps, score_weight=weight))
    started = time.process_time()
    run_recipe(replace(recipe, stages=tuple(stages)), overwrite=True)
    sys.stderr.write(f"trained {setting} {arm} {seed}: {(time.process_time() - started) / 60:.1f} CPU min\n")
    return folder / "model"


def by_topic(args: argparse.Namespace, model: Path, source: PreparedDataset) -> dict[str, dict[str, float]]:
    """{topic: {patient: mean score}} of every topic, and of all closed questions together."""
    patient_of = {case.id: str(case.patient) for case in source.cases}
    run = answered(str(model), source, model.parent / f"answers-{args.split}", ())
    rows: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in next(iter(run.values())):
        for topic in (row.topic, *(("closed",) if row.task == "closed" else ())):
            rows[topic][patient_of[str(row.volume)]].append(score(row))
    return {topic: {who: statistics.mean(marks) for who, marks in found.items()} for topic, found in rows.items()}


def open_prepared(args: argparse.Namespace, split: str) -> PreparedDataset:
    found = open_dataset(f"prepared:{args.prepared}", split=split)
    assert isinstance(found, PreparedDataset)
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prepared", type=Path)
    parser.add_argument("--init", type=Path, default=Path("runs/anatomy-small-stage0/stage0"))
    parser.add_argument("--parts", type=Path, default=Path("runs/parts"))
    parser.add_argument("--out", type=Path, default=Path("runs/joint-real"))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=["insight", "dense", "random"])
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--views", type=int, default=400, help="training views to pre-train on")
    parser.add_argument("--steps", type=int, nargs="+", default=[300, 300], help="of the stages")
    parser.add_argument("--split", choices=("val", "test"), default="val")
    parser.add_argument("--max-cases", type=int, help="of the split, spread over it")
    parser.add_argument("--pretrain", action="append", default=[], metavar="KEY=VALUE", help="of the pre-training")
    parser.add_argument("--triplets", action="append", default=[], metavar="KEY=VALUE", help="of its triplets")
    args = parser.parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    source = open_prepared(args, args.split)
    if args.max_cases is not None:
        places = np.linspace(0, len(source) - 1, min(args.max_cases, len(source))).astype(int)
        source = source.subset(source.cases[place] for place in places)
    summary: dict[str, Any] = {"split": args.split, "seeds": args.seeds, "steps": args.steps, "settings": {}}
    tests = {}
    for setting in args.settings:
        found = {
            arm: [by_topic(args, trained(args, arm, setting, seed), source) for seed in args.seeds] for arm in args.arms
        }
        topics = list(dict.fromkeys(topic for runs in found.values() for run in runs for topic in run))
        table = {
            topic: {
                arm: [round(statistics.mean(run[topic].values()), 4) for run in runs] for arm, runs in found.items()
            }
            for topic in topics
        }
        summary["settings"][setting] = table
        print(f"\n{setting}: mean score by patient, seeds {args.seeds}\n\n| topic | " + " | ".join(found) + " |")
        print("|---" * (len(found) + 1) + "|")
        for topic, row in table.items():
            print(f"| {topic} | " + " | ".join(f"{statistics.mean(seeds):.3f}" for seeds in row.values()) + " |")
        for one, other in itertools.combinations(found, 2):
            tests[setting, one, other] = compare(*([run["closed"] for run in found[arm]] for arm in (one, other)))
    kept = {key: test for key, test in tests.items() if test is not None}
    corrected = holm([test.p for test in kept.values()])
    summary["tests"] = [
        {"setting": key[0], "first": key[1], "second": key[2], **replace(test, p_holm=p).to_dict()}
        for (key, test), p in zip(kept.items(), corrected, strict=True)
    ]
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
