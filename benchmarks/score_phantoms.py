"""Score a model on phantoms of an unseen seed, beside what needs no volume: the table of its card.

One system at a time, each writing OUT/<system>.json, so that two may run side by side; --table prints what is there.

    python benchmarks/score_phantoms.py model --model DIR --out OUT
    python benchmarks/score_phantoms.py blank --model DIR --out OUT
    python benchmarks/score_phantoms.py other --model DIR --out OUT
    python benchmarks/score_phantoms.py blind --model BLIND_DIR --out OUT
    python benchmarks/score_phantoms.py majority --out OUT
    python benchmarks/score_phantoms.py --table --out OUT
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

SEED, COUNT = 9000, 300
TRAINING_SEED, TRAINING_COUNT = 1000, 300
CONTROLS = {"model": "none", "faithful": "none", "blank": "blank", "other": "other", "blind": "text"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("system", nargs="?", choices=[*CONTROLS, "majority"])
    parser.add_argument("--model", default="phantom-tiny")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.table:
        print(table(arguments.out))
        return
    from phantom_scores import interval, score

    rows = majority(arguments.count) if arguments.system == "majority" else ask(arguments)
    numbers = {**score(rows), "closed_interval": interval(rows, "closed"), "open_interval": interval(rows, "open")}
    (arguments.out / f"{arguments.system}.json").write_text(json.dumps(numbers, indent=1) + "\n")
    print(table(arguments.out))


def ask(arguments: argparse.Namespace) -> list:
    import torch
    from phantom_scores import ask_phantoms
    from rich.progress import Progress

    import slicesight

    torch.set_num_threads(arguments.threads)
    predictor = slicesight.load(arguments.model)
    with Progress() as progress:
        task = progress.add_task(arguments.system, total=arguments.count)
        return ask_phantoms(
            predictor,
            seed=SEED,
            count=arguments.count,
            control=CONTROLS[arguments.system],
            progress=lambda done, _: progress.update(task, completed=done),
        )


def majority(count: int) -> list:
    from phantom_scores import AskedQuestion, majority_answers

    from slicesight.phantoms.rendering import make_phantom
    from slicesight.phantoms.texts import conversation_rng, phantom_conversations

    def truths(seed: int, number: int) -> list:
        made = (make_phantom(seed, case) for case in range(number))
        return [(phantom.truth, phantom.volume.num_source_slices) for phantom in made]

    asked = [
        AskedQuestion(case=case, conversation=conversation, prediction="")
        for case, (truth, num_slices) in enumerate(truths(SEED, count))
        for conversation in phantom_conversations(truth, conversation_rng(SEED, case), num_slices=num_slices)
    ]
    return majority_answers(truths(TRAINING_SEED, TRAINING_COUNT), asked, seed=TRAINING_SEED)


def table(folder: Path) -> str:
    lines = [
        "| system | closed (95 % CI) | plane | phase | organ | abnormality | location | open | triples F1 | excess |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in (*CONTROLS, "majority"):
        path = folder / f"{name}.json"
        if not path.exists():
            continue
        n = json.loads(path.read_text())
        low, high = n["closed_interval"]
        topics = " | ".join(
            f"{n['closed_by_topic'][t]:.2f}" for t in ("plane", "phase", "organ", "abnormality", "location")
        )
        excess = "–" if n["evidence"] is None else f"{n['evidence']['excess']:.2f}"
        lines.append(
            f"| {name} (n = {n['num_phantoms']}) | {n['closed']:.3f} ({low:.3f}–{high:.3f}) | {topics} "
            f"| {n['open']:.3f} | {n['triples']['f1']:.3f} | {excess} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
