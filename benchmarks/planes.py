"""Do slices of three planes answer better than slices of one? Both trained alike on phantoms, several seeds.

usage: python benchmarks/planes.py [--recipe recipes/phantom-planes.yaml] [--seeds 1 2 3] [--count 100] [KEY=VALUE ...]

KEY=VALUE changes the recipe of both (stages.1.steps=100). Prints closed accuracy by topic, mean and spread over seeds,
and for the three planes the share of score each plane gets. With the shipped recipe one run takes over an hour.
"""

import argparse
import statistics
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import torch

from slicesight.conversations.phantom_texts import conversation_rng, phantom_conversations
from slicesight.model import Med2E3ForConditionalGeneration, Med2E3Processor
from slicesight.training.recipe import read_recipe
from slicesight.training.stages import run_recipe
from slicesight.volumes.grid import GridSpec, to_grid
from slicesight.volumes.phantoms import make_phantom

UNSEEN_SEED = 90_000
FORMS = ("three planes", "one plane")


def without_planes(recipe):
    """The same recipe for the volume's own stacking."""
    stages = tuple(
        replace(stage, trainable=tuple(part for part in stage.trainable if part != "plane_embedding"))
        for stage in recipe.stages
    )
    return replace(recipe, model={**recipe.model, "planes": None}, stages=stages)


@torch.inference_mode()
def answer_closed(folder, count):
    """Per topic a list of right or wrong, and the mean score of every plane."""
    model = Med2E3ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    processor = Med2E3Processor.from_pretrained(folder)
    spec = GridSpec.from_dict(processor.grid)
    right, plane_shares = defaultdict(list), []
    for case in range(count):
        phantom = make_phantom(UNSEEN_SEED, case)
        asked = phantom_conversations(
            phantom.truth, conversation_rng(UNSEEN_SEED, case), num_slices=phantom.volume.num_source_slices
        )
        closed = [conversation for conversation in asked if conversation.task == "closed"]
        features = model.encode_volumes(torch.from_numpy(to_grid(phantom.volume, spec).voxels)[None, None])
        batch = processor([conversation.prompt for conversation in closed], volume_index=[0] * len(closed))
        scores = model.score_slices(features, **batch)
        if model.config.planes:
            plane_shares.append(scores[:, 0].unflatten(-1, (len(model.config.planes), -1)).sum(-1).mean(0))
        ids = model.generate(**batch, volume_features=features, max_new_tokens=24, do_sample=False)
        texts = processor.decode_answers(ids, num_prompt_tokens=batch["input_ids"].shape[1])
        for conversation, text in zip(closed, texts, strict=True):
            right[conversation.topic].append(text[:1] == conversation.answer_choice)
    shares = torch.stack(plane_shares).mean(0).tolist() if plane_shares else None
    return right, shares


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=Path("recipes/phantom-planes.yaml"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--count", type=int, default=100, help="unseen phantoms to ask")
    parser.add_argument("--out", type=Path, default=Path("runs/planes"))
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE")
    args = parser.parse_args()
    results = {form: defaultdict(list) for form in FORMS}
    for seed in args.seeds:
        for form in FORMS:
            place = args.out / f"{form.replace(' ', '-')}-{seed}"
            recipe = read_recipe(args.recipe, (*args.changes, f"seed={seed}", f"output_dir={place}"))
            if form == "one plane":
                recipe = without_planes(recipe)
            right, shares = answer_closed(run_recipe(recipe), args.count)
            for topic, rows in right.items():
                results[form][topic].append(statistics.mean(rows))
            results[form]["all"].append(statistics.mean([row for rows in right.values() for row in rows]))
            print(
                f"seed {seed}, {form}: {results[form]['all'][-1]:.3f}", f"planes {shares}" if shares else "", flush=True
            )
    topics = [*sorted(set(results["one plane"]) - {"all"}), "all"]
    print(f"{'closed accuracy':16}" + "".join(f"{form:>20}" for form in FORMS))
    for topic in topics:
        cells = [results[form][topic] for form in FORMS]
        spread = [statistics.stdev(cell) if len(cell) > 1 else 0.0 for cell in cells]
        print(
            f"{topic:16}"
            + "".join(f"{statistics.mean(c):>12.3f} ± {s:.3f}" for c, s in zip(cells, spread, strict=True))
        )


if __name__ == "__main__":
    main()
