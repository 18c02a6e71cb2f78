"""Does a Med-2E3 answer better with a 3D encoder that Med3DInsight has pre-trained? Synthetic CT, several seeds.

    python benchmarks/joint_phantoms.py --init runs/phantom-tiny-stage0/stage0 --parts PARTS_FOLDER --out runs/joint

All arms start from the language model and the 2D encoder of --init, with a fresh connector behind the 3D encoder; the
encoder itself is random ("random"), pre-trained on other synthetic scans ("insight") or, on wish, the one that stage 0
taught with label maps ("labels"). All grids are axial. Each arm is trained by recipes/phantom-tiny.yaml, its last stage
left out and the others --steps long, in three settings: the whole method with a 3D encoder that learns on ("3d+2d"),
what the 3D encoder alone carries ("3d"), and the same with the encoder as it came ("3d-frozen"). Then it is asked the
closed questions about --count unseen phantoms; the question for the plane is left out, for it is always axial. "blind"
is the choice that is the commonest among the training phantoms. All comparisons are one Holm family. Last line: JSON.
A run that is finished is kept. PARTS_FOLDER holds vit-s14 and minilm.
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

import torch
from phantom_scores import AskedQuestion, ask_phantoms, majority_answers
from transformers import AutoProcessor

import slicesight
from slicesight.evaluation.statistics import compare, holm
from slicesight.models.encoders3d.backbones import load_backbone
from slicesight.models.encoders3d.configuration import CNN3DConfig
from slicesight.models.importers.insight import put_into_med2e3
from slicesight.models.med2e3.modeling import Med2E3ForConditionalGeneration
from slicesight.phantoms.anatomy import LABEL_NAMES
from slicesight.phantoms.dataset import open_phantom_set
from slicesight.phantoms.folder import write_phantoms
from slicesight.phantoms.rendering import make_phantom
from slicesight.phantoms.texts import conversation_rng, phantom_conversations
from slicesight.training.pretraining import run_pretraining
from slicesight.training.pretraining_recipe import read_pretrain_recipe, read_triplet_settings
from slicesight.training.recipe import read_recipe
from slicesight.training.run import run_recipe
from slicesight.training.triplets.making import make_triplets

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
SCAN_SEED, UNSEEN_SEED = 70_000, 90_000
SETTINGS = ("3d+2d", "3d", "3d-frozen")
ARMS, BLIND = ("insight", "random", "labels"), "blind"
NAMES = {**LABEL_NAMES, **{100 + number: "an abnormality" for number in range(1, 20)}}
ENCODER_FIELDS = ("widths", "blocks", "strides", "num_groups")


def pretrained(args) -> Path:
    """The folder of the pre-trained 3D encoder, made on first use."""
    scans = args.out / "scans"
    if not (scans / "manifest.jsonl").exists():
        write_phantoms(scans, count=args.scans, seed=SCAN_SEED, progress=say("painting"))
    cases = [json.loads(line) for line in (scans / "manifest.jsonl").read_text().splitlines()]
    lines = [{"image": case["volume"], "mask": case["labels"], "patient": case["id"]} for case in cases]
    (scans / "scans.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    names = json.dumps({str(value): name for value, name in NAMES.items()})
    encoders = (f"image_encoder={args.parts / 'vit-s14'}", f"text_encoder={args.parts / 'minilm'}")
    settings = read_triplet_settings(RECIPES / "joint-pretrain.yaml", (*encoders, f"label_names={names}"))
    make_triplets(scans / "scans.jsonl", args.out / "triplets", settings)
    config = Med2E3ForConditionalGeneration.from_pretrained(args.init).config.vision3d_config
    if not isinstance(config, CNN3DConfig):
        raise SystemExit(f"{args.init}: its 3D encoder is {config.model_type}; expected phantom-tiny's cnn3d")
    own = json.dumps({**{name: getattr(config, name) for name in ENCODER_FIELDS}, "feature_size": 8})
    changes = (f"data={args.out / 'triplets'}", f"output_dir={args.out / 'pretrained'}", f"backbone.settings={own}")
    return run_pretraining(
        read_pretrain_recipe(RECIPES / "joint-pretrain.yaml", (*changes, *args.pretrain)), resume=True
    )


def start_folder(args, arm: str, seed: int, *, encoder: Path | None = None, plane: str | None = "axial") -> Path:
    """The --init folder on an axial grid, with this arm's 3D encoder and a fresh connector behind it.

    Args:
        encoder: the folder of the pre-trained one, where the arm has one. plane: None leaves the grid's as it is.
    """
    folder = args.out / "starts" / f"{arm}-{seed}"
    if not (folder / "config.json").exists():
        model = Med2E3ForConditionalGeneration.from_pretrained(args.init, dtype=torch.float32)
        torch.manual_seed(seed)
        fresh = Med2E3ForConditionalGeneration(model.config)
        model.projector_3d.load_state_dict(fresh.projector_3d.state_dict())
        if arm == "random":
            model.vision3d.load_state_dict(fresh.vision3d.state_dict())
        elif encoder is not None:
            put_into_med2e3(model, load_backbone(encoder))
        processor = AutoProcessor.from_pretrained(args.init)
        if plane is not None:
            processor.grid = {**processor.grid, "plane": plane}
        processor.save_pretrained(folder)
        model.save_pretrained(folder)
    return folder


def trained(args, arm: str, setting: str, seed: int) -> Path:
    folder = args.out / "runs" / setting / f"{arm}-{seed}"
    if (folder / "model").is_dir():
        return folder / "model"
    changes = (
        f"output_dir={folder}",
        f"init={start_folder(args, arm, seed, encoder=args.out / 'pretrained' if arm == 'insight' else None)}",
        f"seed={seed}",
        f"model.fusion={setting.removesuffix('-frozen')}",
        "grid.plane=axial",
        f"data.folder={args.out / 'phantoms'}",
        f"data.count={args.phantoms}",
    )
    recipe = read_recipe(RECIPES / "phantom-tiny.yaml", changes)
    unused = () if setting == "3d+2d" else ("projector_2d", "vision2d", "scorer")
    own = () if setting == "3d-frozen" else ("vision3d",)
    stages = []
    for stage, steps in zip(recipe.stages, args.steps, strict=False):
        parts = tuple(part for part in (*stage.trainable, *own) if part not in unused)
        weight = 0.0 if "scorer" in unused else stage.score_weight
        stages.append(replace(stage, trainable=parts, steps=steps, score_weight=weight))
    started = time.process_time()
    run_recipe(replace(recipe, stages=tuple(stages)), overwrite=True)
    sys.stderr.write(f"trained {setting} {arm} {seed}: {(time.process_time() - started) / 60:.1f} CPU min\n")
    return folder / "model"


def answered(folder: Path, count: int) -> dict[str, list[tuple[str, bool]]]:
    """Per topic, and for all, (phantom, right) of the closed questions; kept beside the model."""
    kept = folder.parent / f"answers-{count}.json"
    if not kept.exists():
        asked = ask_phantoms(slicesight.load(folder), seed=UNSEEN_SEED, count=count)
        kept.write_text(json.dumps(by_topic(asked)))
    return json.loads(kept.read_text())


def commonest(args) -> dict[str, list[tuple[str, bool]]]:
    """As `answered`, for the choice that the training phantoms give most often: no scan is looked at."""
    recipe = read_recipe(RECIPES / "phantom-tiny.yaml", ("grid.plane=axial",))
    training = open_phantom_set(
        args.out / "phantoms", seed=recipe.data.seed, count=args.phantoms, grid=recipe.grid, progress=say("painting")
    )
    asked = []
    for case in range(args.count):
        phantom = make_phantom(UNSEEN_SEED, case)
        rng = conversation_rng(UNSEEN_SEED, case)
        for pair in phantom_conversations(phantom.truth, rng, num_slices=phantom.volume.num_source_slices):
            asked.append(AskedQuestion(case=case, conversation=pair, prediction=""))
    return by_topic(
        majority_answers(zip(training.truths, training.num_source_slices, strict=True), asked, seed=training.seed)
    )


def by_topic(asked) -> dict[str, list[tuple[str, bool]]]:
    rows = defaultdict(list)
    for row in asked:
        topic = row.conversation.topic
        if row.conversation.task == "closed" and topic != "plane":
            rows[topic].append((str(row.case), row.is_right))
            rows["all"].append(rows[topic][-1])
    return rows


def by_phantom(rows) -> dict[str, float]:
    right = defaultdict(list)
    for phantom, hit in rows:
        right[phantom].append(hit)
    return {phantom: statistics.mean(hits) for phantom, hits in right.items()}


def say(doing: str):
    return lambda done, total: sys.stderr.write(f"{doing} {done}/{total}\n") if done % 50 == 0 else None


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--init", type=Path, default=Path("runs/phantom-tiny-stage0/stage0"))
    parser.add_argument("--parts", type=Path, default=Path("runs/parts"))
    parser.add_argument("--out", type=Path, default=Path("runs/joint"))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=["insight", "random"])
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--scans", type=int, default=150, help="synthetic scans to pre-train on")
    parser.add_argument("--phantoms", type=int, default=1200, help="synthetic scans to learn answers on")
    parser.add_argument("--steps", type=int, nargs="+", default=[300, 300], help="of the stages")
    parser.add_argument("--count", type=int, default=100, help="unseen phantoms to ask")
    parser.add_argument("--pretrain", action="append", default=[], metavar="KEY=VALUE", help="of the pre-training")
    args = parser.parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    if "insight" in args.arms:
        pretrained(args)
    blind = commonest(args)
    summary = {"seeds": args.seeds, "steps": args.steps, "count": args.count, "settings": {}}
    tests = {}
    for setting in args.settings:
        found = {
            arm: [answered(trained(args, arm, setting, seed), args.count) for seed in args.seeds] for arm in args.arms
        }
        found[BLIND] = [blind]
        summary["settings"][setting] = table(setting, found, args)
        for one, other in itertools.combinations(found, 2):
            runs = ([by_phantom(run["all"]) for run in found[arm]] for arm in (one, other))
            tests[setting, one, other] = compare(*runs)
    corrected = holm([test.p for test in tests.values()])
    summary["tests"] = []
    print("\n| setting | comparison | difference (95 % CI by phantom) | p, Holm |\n|---|---|---|---|")
    for ((setting, one, other), test), p in zip(tests.items(), corrected, strict=True):
        print(
            f"| {setting} | {one} − {other} | {test.difference:+.3f} ({test.low:+.3f} to {test.high:+.3f}) | {p:.4f} |"
        )
        numbers = replace(test, p_holm=p).to_dict()
        summary["tests"].append({"setting": setting, "first": one, "second": other, **numbers})
    print(json.dumps(summary))


def table(setting: str, found: dict[str, list], args) -> dict[str, dict[str, list[float]]]:
    """Print a setting's accuracies by topic; returns {topic: {arm: [one per seed]}}."""
    topics = sorted({topic for runs in found.values() for run in runs for topic in run}, key=lambda t: (t == "all", t))
    print(f"\n{setting}: closed accuracy over {args.count} unseen phantoms, mean ± sd of {len(args.seeds)} seeds\n")
    print("| topic | " + " | ".join(found) + " |\n|---|" + "---|" * len(found))
    numbers = {}
    for topic in topics:
        numbers[topic] = {
            arm: [statistics.mean(by_phantom(run[topic]).values()) for run in runs] for arm, runs in found.items()
        }
        cells = [
            f"{statistics.mean(seeds):.3f}" + (f" ± {statistics.stdev(seeds):.3f}" if len(seeds) > 1 else "")
            for seeds in numbers[topic].values()
        ]
        print(f"| {topic} | " + " | ".join(cells) + " |")
    return numbers


if __name__ == "__main__":
    main()
