"""Do the vectors read of a held-out volume find their own slices, and what do plane and slice embeddings add? (R@1)

    python benchmarks/slice_retrieval.py runs/insight-sts/sts.jsonl --out runs/insight-sts --parts PARTS_FOLDER

OUT/triplets and OUT/pretrain/<arm>/seed<k> are those of benchmarks/insight_sts.py, and are made where they are missing
(about 10 CPU minutes a run of the shipped recipe; the arm "no_place" is only made here, three runs). Held-out volumes
are those of --split of the list; their triplets go to OUT/triplets-<split>. Per arm: R@1 among all slices of the same
plane ("plane") and among those of the same plane of the same volume ("volume"), mean over seeds with the 95 % interval
by patient and the spread over seeds; chance; and the shortcut "place alone", the mean training vector of plane and
place. The first arm is compared with every other by a paired sign-flip test over patients, seeds averaged,
Holm-corrected. Tables on stdout and in OUT/retrieval.md, the last line of stdout is JSON. PARTS_FOLDER holds vit-s14
and minilm.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
from slice_vectors import guess_by_place, mean_by_patient, read_slices, recall_at_1

from slicesight.evaluation.statistics import compare, holm, mean_interval
from slicesight.models.med3dinsight import PretrainingModel
from slicesight.settings import build_settings
from slicesight.training.pretraining import run_pretraining
from slicesight.training.pretraining_recipe import TripletSettings, read_pretrain_recipe, read_triplet_settings
from slicesight.training.scan_list import read_cases
from slicesight.training.triplets.dataset import open_triplets
from slicesight.training.triplets.making import make_triplets

RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "sts-pretrain.yaml"
ARMS = {
    "image_text": (),
    "no_place": ("psat.plane_slice=false",),
    "shuffled": ("pairing=shuffled",),
    "released": ("variant=released",),
    "contrastive": ("alignment=contrastive",),
    "image": ("text_weight=0",),
}
CANDIDATES = ("plane", "volume")
HEADER = "| among slices of the same {} | R@1 | 95 % by patient | sd over seeds | {} minus it | p (Holm) |"


def triplets_of(scans, split, folder, settings):
    """The triplets of one split of a list, made on first use."""
    if not (folder / "scans.jsonl").is_file():
        cases = [case for case in read_cases(scans) if case.split == split]
        lines = [
            {"image": str(case.image.resolve()), "mask": case.mask and str(case.mask.resolve())}
            | {"patient": case.patient, "split": split}
            for case in cases
        ]
        folder.parent.mkdir(parents=True, exist_ok=True)
        chosen = folder.parent / f"{folder.name}.jsonl"
        chosen.write_text("".join(json.dumps(line) + "\n" for line in lines))
        make_triplets(chosen, folder, settings)
    return open_triplets(folder)


def row(name, hits_of_seeds, patients):
    """One line of the table: seeds averaged for the interval over patients, and the spread over seeds."""
    found = mean_interval(np.mean(hits_of_seeds, axis=0), patients)
    by_seed = [float(hits.mean()) for hits in hits_of_seeds]
    spread = statistics.stdev(by_seed) if len(by_seed) > 1 else None
    return {"arm": name, "r_at_1": found.value, "low": found.low, "high": found.high, "seeds": by_seed, "sd": spread}


def table(found, guessed, candidates):
    """The rows of every arm, with the first arm's comparisons."""
    patients = guessed.patients
    hits = {arm: [recall_at_1(vectors, candidates=candidates)[0] for vectors in runs] for arm, runs in found.items()}
    place, chance = recall_at_1(guessed, candidates=candidates)
    hits["place alone"] = [place]
    by_patient = {arm: [mean_by_patient(each, patients) for each in runs] for arm, runs in hits.items()}
    first, *others = hits
    tests = {arm: compare(by_patient[first], by_patient[arm]) for arm in others}
    corrected = dict(zip(tests, holm([test.p for test in tests.values()]), strict=True))
    rows = [row(arm, runs, patients) for arm, runs in hits.items()]
    for line in rows:
        if line["arm"] in tests:
            line |= {"difference": tests[line["arm"]].difference, "p_holm": corrected[line["arm"]]}
    rows.append({"arm": "chance", "r_at_1": chance})
    return rows


def markdown(rows, candidates):
    lines = [HEADER.format(candidates, rows[0]["arm"]), "|---|---|---|---|---|---|"]
    for line in rows:
        interval = f"{line['low']:.3f}–{line['high']:.3f}" if "low" in line else ""
        spread = f"{line['sd']:.3f}" if line.get("sd") is not None else ""
        compared = f"{line['difference']:+.3f} | {line['p_holm']:.3f}" if "difference" in line else " | "
        lines.append(f"| {line['arm']} | {line['r_at_1']:.3f} | {interval} | {spread} | {compared} |")
    return "\n".join(lines) + "\n"


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", type=Path, help="a .jsonl of scans with patients and splits")
    parser.add_argument("--out", type=Path, default=Path("runs/insight-sts"))
    parser.add_argument("--parts", type=Path, default=Path("runs/parts"), help="folder with vit-s14 and minilm")
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=["image_text", "no_place", "shuffled"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--split", default="test")
    parser.add_argument("--target", default="image", choices=["image", "text"])
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args(arguments)
    encoders = (f"image_encoder={args.parts / 'vit-s14'}", f"text_encoder={args.parts / 'minilm'}")
    made = args.out / "triplets" / "settings.json"
    if made.is_file():  # by insight_sts.py, or by an earlier run of this
        settings = build_settings(TripletSettings, json.loads(made.read_text())["settings"], where=str(made))
    else:
        own = [change.removeprefix("triplets.") for change in args.changes if change.startswith("triplets.")]
        settings = read_triplet_settings(args.recipe, (*encoders, *own))
    train = triplets_of(args.scans, "train", args.out / "triplets", settings)
    held_out = triplets_of(args.scans, args.split, args.out / f"triplets-{args.split}", settings).scans
    found = {arm: [] for arm in args.arms}
    for seed in args.seeds:
        for arm in args.arms:
            folder = args.out / "pretrain" / arm / f"seed{seed}"
            if not (folder / "config.json").is_file():
                changes = [change for change in args.changes if not change.startswith("triplets.")]
                own = (*changes, *ARMS[arm], f"seed={seed}", f"data={train.folder}", f"output_dir={folder}")
                started = time.process_time()
                run_pretraining(read_pretrain_recipe(args.recipe, own), resume=True)
                sys.stderr.write(f"pre-trained {arm} seed {seed}: {(time.process_time() - started) / 60:.1f} CPU min\n")
            found[arm].append(read_slices(PretrainingModel.from_pretrained(folder), held_out, target=args.target))
    guessed = guess_by_place(train.of_split("train"), held_out, target=args.target)
    tables = {candidates: table(found, guessed, candidates) for candidates in CANDIDATES}
    patients = sorted(set(guessed.patients))
    heading = (
        f"Slice retrieval: {len(held_out)} held-out volumes of {len(patients)} patients, {len(guessed.scans)} slices, "
        f"{args.target} vectors, {len(args.seeds)} seeds.\n\n"
    )
    text = heading + "\n".join(markdown(rows, candidates) for candidates, rows in tables.items())
    (args.out / "retrieval.md").write_text(text)
    print(text)
    facts = {"split": args.split, "target": args.target, "patients": len(patients), "settings": asdict(settings)}
    print(json.dumps({**facts, "tables": tables}))


if __name__ == "__main__":
    main()
