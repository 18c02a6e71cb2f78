"""Did a change of the code change a number? Digests of what the commands write, to compare between two checkouts.

usage: python benchmarks/same_bits.py [--golden DIR] [--out FILE] [--against FILE]

Everything goes through the command line, so the script runs on any version: phantoms, their prepared grid, the losses
of a training run with all its stages, of a pre-training and of a segmenter, 330 greedy answers of the shipped model
with their slice scores, one score sheet with its controls, and the comparison with the official code (--golden, its
folder of reference values). One line per item; --against a file written elsewhere prints what differs and exits with 1.
Digests are comparable on one machine and one thread only.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TIMES = ("seconds", "minutes_left", "encode_seconds", "answer_seconds", "minutes")
"""Keys of what a clock says, and of where things lie."""
PLACES = ("slicesight", "created", "folder", "source", "data", "commit", "git", "libraries", "machine", "out")


def command(*arguments: object, cwd: Path) -> None:
    """One run of the command line in its own process."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT / "src")}
    words = [sys.executable, "-m", "slicesight", *map(str, arguments)]
    done = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(words[2:])}: {done.stderr.strip()[-2000:]}")


def digest(content: object) -> str:
    """Sixteen signs of a SHA-256."""
    raw = content if isinstance(content, bytes) else json.dumps(content, sort_keys=True).encode()
    return hashlib.sha256(raw).hexdigest()[:16]


ADDED = (
    *("choice", "accuracy_constrained", "ways", "reasoning", "num_without_answer", "rougel", "bleu4", "chrf", "cider"),
    *("clinical", "corpus", "patient", "slice_places_mm", "selective", "grid"),
    *("pointing_game", "range_iou", "distance_mm", "measured_by"),
)
"""What predictions and sheets say since 0.1.0: all else of them must be as it was."""


def without_times(value: object) -> object:
    """The same without what differs between two runs of one version."""
    if isinstance(value, dict):
        return {key: without_times(inner) for key, inner in value.items() if key not in (*TIMES, *PLACES, *ADDED)}
    if isinstance(value, list):
        return [without_times(inner) for inner in value]
    return value


def lines_of(path: Path) -> list[object]:
    return [without_times(json.loads(line)) for line in path.read_text().splitlines()]


def phantoms(work: Path) -> dict[str, object]:
    command("phantom", "--out", "phantoms", "--count", 16, "--seed", 5, cwd=work)
    voxels = {}
    for path in sorted((work / "phantoms").glob("**/*.nii.gz")):
        voxels[path.name] = digest(gzip.decompress(path.read_bytes()))
    manifest = (work / "phantoms" / "manifest.jsonl").read_bytes()
    return {"phantoms.voxels": digest(voxels), "phantoms.manifest": digest(manifest), "phantoms.count": len(voxels)}


def prepared(work: Path) -> dict[str, object]:
    (work / "source").mkdir()
    for line in (work / "phantoms" / "manifest.jsonl").read_text().splitlines():
        case = json.loads(line)
        volume = work / "phantoms" / case["volume"]
        shutil.copy(volume, work / "source")
        (work / "source" / volume.name.replace(".nii.gz", ".txt")).write_text(case["conversations"][0]["answer"])
    command("prepare", "source", "--format", "folder", "--out", "data", "--size", "32,96,96", cwd=work)
    shards = {path.name: digest(path.read_bytes()) for path in sorted((work / "data").glob("**/*.parquet"))}
    return {"prepared.shards": digest(shards), "prepared.count": len(shards)}


def training(work: Path) -> dict[str, object]:
    command("train", ROOT / "recipes" / "smoke.yaml", "--set", "output_dir=smoke", cwd=work)
    lines = [line for line in lines_of(work / "smoke" / "log.jsonl") if "loss" in line]
    weights = (work / "smoke" / "model" / "model.safetensors").read_bytes()
    tensors = weights[8 + int.from_bytes(weights[:8], "little") :]
    known = [{key: line[key] for key in ("stage", "step", "loss") if key in line} for line in lines]
    return {"training.losses": digest(known), "training.lines": len(known), "training.weights": digest(tensors)}


def insight(work: Path) -> dict[str, object]:
    scans = []
    for number, path in enumerate(sorted((work / "phantoms" / "volumes").iterdir())):
        split = {14: "val", 15: "test"}.get(number, "train")
        label = work / "phantoms" / "labels" / path.name
        scans.append({"image": str(path), "mask": str(label), "patient": f"p{number}", "split": split})
    (work / "scans.jsonl").write_text("".join(json.dumps(line) + "\n" for line in scans))
    found: dict[str, object] = {}
    for verb, recipe in (("pretrain", "smoke-insight"), ("segment", "smoke-segment")):
        changes = ("--set", "data=scans.jsonl", "--set", f"output_dir={verb}")
        command("insight", verb, ROOT / "recipes" / f"{recipe}.yaml", *changes, cwd=work)
        lines = lines_of(work / verb / "log.jsonl")
        losses = [[line["step"], line["loss"]] for line in lines if "loss" in line]
        found[f"insight.{verb}.losses"] = digest(losses)
        found[f"insight.{verb}.lines"] = len(losses)
    return found


def answers(work: Path) -> dict[str, object]:
    command("evaluate", "--data", "phantoms:9000:30", "--out", "answers", "--no-controls", "--figures", 0, cwd=work)
    command("evaluate", "--data", "phantoms:9100:3", "--out", "sheet", "--figures", 0, cwd=work)
    said = lines_of(work / "answers" / "predictions.jsonl")
    texts = [[line["id"], line["question"], line["prediction"]] for line in said]
    sheet = without_times(json.loads((work / "sheet" / "sheet.json").read_text()))
    return {
        "answers.count": len(said),
        "answers.texts": digest(texts),
        "answers.lines": digest(said),
        "sheet": digest(sheet),
    }


def official(golden: Path) -> dict[str, object]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    words = [sys.executable, str(ROOT / "tests" / "parity" / "official.py"), str(golden)]
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith(("ok", "FAIL"))]
    return {"official.lines": digest(lines), "official.last": done.stdout.strip().splitlines()[-1]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--golden", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--against", type=Path)
    options = parser.parse_args()
    found: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        for item in (phantoms, prepared, training, insight, answers):
            facts = item(Path(folder))
            found |= facts
            print("\n".join(f"{name:28} {value}" for name, value in facts.items()), flush=True)
    if options.golden:
        found |= official(options.golden.resolve())
        print(f"{'official.last':28} {found['official.last']}", flush=True)
    if options.out:
        options.out.write_text(json.dumps(found, indent=2) + "\n")
    if options.against:
        before = json.loads(options.against.read_text())
        different = [name for name in before if before[name] != found.get(name)]
        print(f"{len(before) - len(different)} of {len(before)} equal")
        print("".join(f"  differs: {name}\n" for name in different), end="")
        return 1 if different else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
