"""Do slices of three planes answer better than slices of one? Both trained alike on phantoms, several seeds.

usage: python benchmarks/planes.py [--recipe recipes/phantom-planes.yaml] [--seeds 1 2 3] [--count 100]
                                   [--blind BLIND_MODEL] [--set KEY=VALUE]...

--set changes the recipe of both (stages.1.steps=100). Every run's answers stay in OUT/<form>-<seed>.json, so that a
run that was stopped goes on, and single runs may be made apart (--seeds 2 --forms one). Prints closed accuracy by topic
with 95 % interval by phantom over all seeds, the paired test by phantom, and for the three planes the share of score
each plane gets, beside the majority's and, where one is named, a model's that was trained without any volume.
"""

import argparse
import json
import statistics
from collections import defaultdict
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from phantom_scores import AskedQuestion, majority_answers

from slicesight.data.choices import with_letter
from slicesight.evaluation.statistics import compare, mean_interval
from slicesight.models.med2e3.modeling import Med2E3ForConditionalGeneration
from slicesight.models.med2e3.processing import Med2E3Processor
from slicesight.phantoms.rendering import make_phantom
from slicesight.phantoms.texts import conversation_rng, phantom_conversations
from slicesight.training.recipe import read_recipe
from slicesight.training.run import run_recipe
from slicesight.volumes.grid import GridSpec, to_grid

UNSEEN_SEED = 90_000
MAJORITY_FROM = 300
FORMS = {"three": "three planes", "one": "one plane"}


def without_planes(recipe):
    """The same recipe for the axial stacking alone."""
    stages = tuple(
        replace(stage, trainable=tuple(part for part in stage.trainable if part != "plane_embedding"))
        for stage in recipe.stages
    )
    cache = recipe.feature_cache and f"{recipe.feature_cache}-one"
    return replace(recipe, model={**recipe.model, "planes": None}, stages=stages, feature_cache=cache)


@lru_cache(maxsize=1)
def unseen(count, grid):
    """Every phantom's voxels on the grid and its closed questions."""
    rows = []
    for case in range(count):
        phantom = make_phantom(UNSEEN_SEED, case)
        asked = phantom_conversations(
            phantom.truth, conversation_rng(UNSEEN_SEED, case), num_slices=phantom.volume.num_source_slices
        )
        closed = [conversation for conversation in asked if conversation.task == "closed"]
        rows.append((to_grid(phantom.volume, grid).voxels, closed))
    return rows


@torch.inference_mode()
def answer_closed(folder, count, *, sees=True):
    """{"right": {topic: [0 or 1 per phantom]}, "planes": mean score of every plane or None}."""
    model = Med2E3ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    processor = Med2E3Processor.from_pretrained(folder)
    right, plane_shares = defaultdict(list), []
    for voxels, closed in unseen(count, GridSpec.from_dict({**processor.grid, "plane": "axial"})):
        prompts = [conversation.prompt for conversation in closed]
        given = {}
        if sees:
            given["volume_features"] = model.encode_volumes(torch.from_numpy(voxels)[None, None])
            batch = processor(prompts, volume_index=[0] * len(prompts))
        else:
            batch = processor(prompts, volume_index=[[-1]] * len(prompts))
            batch.pop("volume_index")
        if sees and model.config.planes:
            scores = model.score_slices(given["volume_features"], **batch)
            plane_shares.append(scores[:, 0].unflatten(-1, (len(model.config.planes), -1)).sum(-1).mean(0))
        ids = model.generate(**batch, **given, max_new_tokens=24, do_sample=False)
        texts = processor.decode_answers(ids, num_prompt_tokens=batch["input_ids"].shape[1])
        for conversation, prompt, text in zip(closed, prompts, texts, strict=True):
            row = AskedQuestion(case=0, conversation=conversation, prediction=with_letter(prompt, text))
            right[conversation.topic].append(int(row.is_right))
    shares = torch.stack(plane_shares).mean(0).tolist() if plane_shares else None
    return {"right": right, "planes": shares}


def majority(count, grid):
    made = (make_phantom(1000, case) for case in range(MAJORITY_FROM))
    seen = [(phantom.truth, phantom.volume.num_source_slices) for phantom in made]
    rows = [
        AskedQuestion(case=case, conversation=conversation, prediction="")
        for case, (_, closed) in enumerate(unseen(count, grid))
        for conversation in closed
    ]
    right = defaultdict(list)
    for row in majority_answers(seen, rows, seed=1000):
        right[row.conversation.topic].append(int(row.is_right))
    return {"right": right, "planes": None}


def run(form, seed, args):
    """The answers of one run, trained unless they are there."""
    kept = args.out / f"{form}-{seed}.json"
    if not kept.exists():
        place = args.out / f"{form}-{seed}"
        recipe = read_recipe(args.recipe, (*args.changes, f"seed={seed}", f"output_dir={place}"))
        found = answer_closed(run_recipe(recipe if form == "three" else without_planes(recipe)), args.count)
        kept.write_text(json.dumps(found))
    found = json.loads(kept.read_text())
    flat = [row for rows in found["right"].values() for row in rows]
    print(f"seed {seed}, {FORMS[form]}: {statistics.mean(flat):.3f}", found["planes"] or "", flush=True)
    return found


def by_phantom(found, topic):
    """{phantom: share right}."""
    rows = found["right"].values() if topic == "all" else [found["right"][topic]]
    return {str(case): statistics.mean(values) for case, values in enumerate(zip(*rows, strict=True))}


def cell(runs, topic):
    """Mean over seeds with the interval by phantom."""
    seeds = [by_phantom(found, topic) for found in runs]
    interval = mean_interval(np.array([statistics.mean(seed[case] for seed in seeds) for case in seeds[0]]))
    return f"{interval.value:.3f} ({interval.low:.3f}–{interval.high:.3f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=Path("recipes/phantom-planes.yaml"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--forms", nargs="+", default=list(FORMS), choices=FORMS)
    parser.add_argument("--count", type=int, default=100, help="unseen phantoms to ask")
    parser.add_argument("--blind", help="a model trained without volumes (recipes/phantom-blind.yaml)")
    parser.add_argument("--out", type=Path, default=Path("runs/planes"))
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    runs = {form: [run(form, seed, args) for seed in args.seeds] for form in args.forms}
    if len(runs) < len(FORMS):
        return
    grid = read_recipe(args.recipe, args.changes).grid
    runs["majority"] = [majority(args.count, grid)]
    if args.blind:
        runs["blind"] = [answer_closed(args.blind, args.count, sees=False)]
    print(f"| closed accuracy, {args.count} phantoms, {len(args.seeds)} seeds | " + " | ".join(runs) + " |")
    print("|---" * (len(runs) + 1) + "|")
    for topic in (*sorted(runs["one"][0]["right"]), "all"):
        print(f"| {topic} | " + " | ".join(cell(found, topic) for found in runs.values()) + " |")
    test = compare(*([by_phantom(found, "all") for found in runs[form]] for form in FORMS))
    print(f"three - one: {test.difference:+.3f} ({test.low:+.3f} to {test.high:+.3f}), p = {test.p:.4f}, by phantom")


if __name__ == "__main__":
    main()
