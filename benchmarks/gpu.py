"""What does a GPU give? Parity, questions, training, attention and serving there, one line of JSON for each.

usage: python benchmarks/gpu.py [--device cuda|cpu] [--size tiny|small|full ...] [--only ITEM ...] [--golden DIR]
                                [--budget SECONDS] [--out FILE]

Items come in the order of `list_items`, or of --only, which takes an item's name or its beginning. One that fails says
so in its line, and the next one runs. Limits are what the same products and bytes take at the rates that are measured
in the same run. Times are medians; `spread` is (slowest - fastest) / median. Products in float32 do not use TF32.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from gpu_clock import Bench, Skipped, measure_rates, short, summarise

import slicesight
from slicesight.inference.cpu import processor as machine

HERE = Path(__file__).resolve().parent
ITEM_SECONDS = 150
KEPT_BYTES = 2**30  # that an item leaves on the device; past it, the next one starts in a new process
Item = Callable[[Bench], dict[str, Any]]


# --- environment ------------------------------------------------------------------------------------------------------


def environment(bench: Bench) -> dict[str, Any]:
    """What runs here, and how fast it multiplies and reads."""
    facts: dict[str, Any] = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": sys.version.split()[0],
        "slicesight": slicesight.__version__,
        "threads": torch.get_num_threads(),
    }
    if bench.on_gpu:
        found = torch.cuda.get_device_properties(0)
        free, total = torch.cuda.mem_get_info()
        facts |= {
            "device": found.name,
            "capability": f"{found.major}.{found.minor}",
            "multiprocessors": found.multi_processor_count,
            "memory_gib": short(total / 2**30),
            "free_gib": short(free / 2**30),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    else:
        facts["device"] = "cpu"
    bench.rates = measure_rates(bench)
    rates = bench.rates
    return facts | {
        "tflops": {name: short(rate / 1e12) for name, rate in rates["flops"].items()},
        "gb_per_s": {name: short(rate / 1e9) for name, rate in rates["bytes_by_way"].items()},
    }


# --- parity -----------------------------------------------------------------------------------------------------------


def parity(bench: Bench) -> dict[str, Any]:
    """The released form on golden vectors in float32 and bfloat16, and the same model here and on the CPU."""
    if bench.golden is None or not (bench.golden / "golden.npz").is_file():
        raise Skipped("needs --golden DIR with golden.npz")
    sys.path.insert(0, str(HERE.parent / "tests" / "parity"))
    import official
    from transformers import AutoModelForImageTextToText

    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        converted = official.rebuild(bench.golden, Path(folder))
        processor = official.Med2E3Processor.from_pretrained(converted)
        models = {}
        for name in ("float32", "bfloat16"):
            dtype = getattr(torch, name)
            model = AutoModelForImageTextToText.from_pretrained(converted, dtype=dtype).eval().to(bench.device)
            comparison = official.Comparison(only_measures=name == "bfloat16")
            official.compare_samples(bench.golden, model, processor, comparison)
            worst = max(comparison.relative, key=lambda key: comparison.relative[key])
            found[name] = {
                "compared": comparison.compared,
                "past_tolerance_or_unequal": comparison.failures,
                "largest_difference": short(max(comparison.absolute.values())),
                "largest_relative": short(comparison.relative[worst]),
                "of": worst,
            }
            models[name] = model
        models["cpu"] = AutoModelForImageTextToText.from_pretrained(converted, dtype=torch.float32).eval()
        found["cpu_against_device"] = against_cpu(official, models, processor, bench.golden)
    found["within_1e-4"] = found["float32"]["past_tolerance_or_unequal"] == 0
    return found


def against_cpu(official: Any, models: dict[str, Any], processor: Any, golden: Path) -> dict[str, Any]:
    """Largest difference of every tensor, relative to the tensor's largest value, over all golden samples."""
    meta = json.loads((golden / "meta.json").read_text())
    formula = official.load_formula(golden)
    largest: dict[str, dict[str, float]] = {"float32": {}, "bfloat16": {}}
    for number, question in enumerate(meta["questions"]):
        volumes = torch.from_numpy(formula.volume(meta["seed"], number))[None]
        seen = {}
        for name, model in models.items():
            batch = official.place(processor(question, volumes=volumes), model)
            tensors = official.look_inside(model, batch)
            seen[name] = {key: official.as_numbers(tensor) for key, tensor in tensors.items()}
        for name, row in largest.items():
            for key, expected in seen["cpu"].items():
                difference = abs(seen[name][key] - expected).max() / abs(expected).max()
                row[key] = max(row.get(key, 0.0), float(difference))
    return {name: {key: short(value, 3) for key, value in row.items()} for name, row in largest.items()}


# --- answers of the shipped model -------------------------------------------------------------------------------------


def answers(bench: Bench) -> dict[str, Any]:
    """The shipped model's greedy answers in float32 and bfloat16, against the CPU's in float32."""
    from same_answers import by_scheduler, compare

    from slicesight.phantoms.rendering import make_phantom
    from slicesight.phantoms.texts import conversation_rng, phantom_conversations

    count, seed = (1 if bench.sizes == ["tiny"] else 30), 41_000
    predictors = {"cpu": slicesight.load(device="cpu", dtype="float32")}
    predictors |= {name: slicesight.load(device=bench.device, dtype=name) for name in ("float32", "bfloat16")}
    said: dict[str, list[Any]] = {name: [] for name in predictors}
    spent: dict[str, list[float]] = {name: [] for name in predictors}
    asked = []
    for case in range(count):
        phantom = make_phantom(seed, case)
        found = phantom_conversations(
            phantom.truth, conversation_rng(seed, case), num_slices=phantom.volume.num_source_slices
        )
        questions = [conversation.prompt for conversation in found]
        asked += [(case, question) for question in questions]
        for name, predictor in predictors.items():
            start = bench.now()
            rows = by_scheduler(predictor, predictor.encode(phantom.volume), questions)
            spent[name].append(bench.now() - start)
            said[name] += [(ids, logits.cpu()) for ids, logits in rows]
    facts: dict[str, Any] = {"phantoms": count, "questions": len(asked)}
    for name in ("float32", "bfloat16"):
        facts[name] = compare(said["cpu"], said[name]) | {
            "parting": list_parting(said["cpu"], said[name], asked),
            "seconds_a_volume": time_volumes(spent[name]),
        }
    return facts | {"cpu_seconds_a_volume": time_volumes(spent["cpu"])}


def time_volumes(seconds: list[float]) -> dict[str, float]:
    """The first is slower than the rest: kernels are loaded and chosen as shapes first come."""
    return {"first": short(seconds[0]), "median": short(summarise(seconds)["seconds"])}


def list_parting(reference: list[Any], others: list[Any], asked: list[tuple[int, str]]) -> list[dict[str, Any]]:
    """Every answer that parts: where, and how far apart the reference's two best logits were there."""
    rows = []
    for (ids, logits), (other_ids, _), (case, question) in zip(reference, others, asked, strict=True):
        if ids == other_ids:
            continue
        pairs = enumerate(zip(ids, other_ids, strict=False))
        place = next((i for i, (a, b) in pairs if a != b), min(len(ids), len(other_ids)))
        best = logits[min(place, len(logits) - 1)].topk(2).values
        gap = short(float(best[0] - best[1]), 3)
        rows.append({"case": case, "question": question[:60], "token": place, "of": len(ids), "gap": gap})
    return rows


# --- the server -------------------------------------------------------------------------------------------------------


def serve(bench: Bench) -> dict[str, Any]:
    """The shipped model behind HTTP on this machine, asked by many at once."""
    import serve_load

    askers, questions = (3, 2) if bench.sizes == ["tiny"] else (40, 12)  # as many as may wait and be answered
    options = argparse.Namespace(askers=askers, questions=questions, volumes=1, queue=32, model="phantom-tiny")
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not bench.on_gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    try:
        with tempfile.TemporaryDirectory() as folder:
            scans = serve_load.make_scans(Path(folder), 1 if askers == 3 else 3)
            found = serve_load.run(options, scans, at_once=serve_load.TOGETHER)
    finally:
        if not bench.on_gpu:
            os.environ.pop("CUDA_VISIBLE_DEVICES")
            if hidden is not None:
                os.environ["CUDA_VISIBLE_DEVICES"] = hidden
    return {"askers": askers, "questions_each": questions, **found}


# --- all of it --------------------------------------------------------------------------------------------------------


def list_items(sizes: list[str]) -> dict[str, Item]:
    """Every item in its order, by its name; those whose imports fail are one item, which says why."""
    items: dict[str, Item] = {"environment": environment, "parity": parity}
    for name in ("gpu_attention", "gpu_training", "gpu_ask_many"):
        if name == "gpu_training":
            items |= {"answers": answers, "serve": serve}
        try:
            items |= importlib.import_module(name).list_items(sizes)
        except Exception as error:
            traceback.print_exc()
            items[name] = partial(fail, error)
    return items


def fail(error: Exception, bench: Bench) -> dict[str, Any]:
    raise error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", action="append", choices=("tiny", "small", "full"), help="small and full on a GPU")
    parser.add_argument("--only", action="append", metavar="ITEM", default=[])
    parser.add_argument("--golden", type=Path, help="a folder of golden vectors of the released form")
    parser.add_argument("--budget", type=float, default=480, help="seconds after which no further item starts")
    parser.add_argument("--out", type=Path, help="lines are appended here too")
    args = parser.parse_args()
    sizes = args.size or (["small", "full"] if args.device == "cuda" else ["tiny"])
    sizes = [size for size in ("tiny", "small", "full") if size in sizes]
    bench = Bench(device=args.device, sizes=sizes, golden=args.golden and args.golden.resolve())
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    if bench.on_gpu:
        machine.now = bench.now
    until = time.monotonic() + args.budget
    longest = ITEM_SECONDS if bench.on_gpu else args.budget
    items = list_items(sizes)
    if unknown := [word for word in args.only if not any(name.startswith(word) for name in items)]:
        parser.error(f"--only {unknown[0]!r} is no item; expected {', '.join(items)}")
    words = args.only or [""]
    matches = {word: [word] if word in items else [name for name in items if name.startswith(word)] for word in words}
    chosen = list(dict.fromkeys(name for word in words for name in matches[word]))
    for place, name in enumerate(chosen):
        left = until - time.monotonic()
        if left <= 0:
            put(args.out, {"item": name, "skipped": "the budget is spent"})
            continue
        put(args.out, {"item": name, **run(bench, items[name], seconds=min(longest, left + 20))})
        if bench.on_gpu and (bench.is_used_up or is_lost() or torch.cuda.memory_allocated() > KEPT_BYTES):
            go_on_afresh(args, chosen[place + 1 :], budget=until - time.monotonic())


def run(bench: Bench, item: Item, *, seconds: float) -> dict[str, Any]:
    """The item's facts, or why there are none; always how long it took."""
    start = time.monotonic()
    try:
        with at_most(seconds):
            facts = item(bench)
    except Skipped as reason:
        facts = {"skipped": str(reason)}
    except (Exception, SystemExit) as error:  # one item's failure is a line of its own
        traceback.print_exc()
        facts = {"error": " ".join(f"{type(error).__name__}: {error}".split())[:400]}
    torch.compiler.reset()  # which also frees what CUDA graphs hold
    gc.collect()
    if bench.on_gpu:
        with contextlib.suppress(RuntimeError):
            torch.cuda.empty_cache()
            facts["left_gib"] = short(torch.cuda.memory_allocated() / 2**30, 2)
    return facts | {"item_seconds": round(time.monotonic() - start, 1)}


@contextlib.contextmanager
def at_most(seconds: float):
    """Stops what runs for longer, where Python gets to look."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"took more than {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def is_lost() -> bool:
    """Whether the device answers this process no more, as after a fault in a kernel."""
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


def go_on_afresh(args: argparse.Namespace, names: list[str], *, budget: float) -> None:
    """The remaining items in a new process in place of this one."""
    if not names or budget <= 0:
        return
    words = ["--device", args.device, "--budget", f"{budget:.0f}"]
    for option, values in (("--size", args.size), ("--only", names)):
        words += [word for value in values or [] for word in (option, value)]
    for option, value in (("--golden", args.golden), ("--out", args.out)):
        words += [] if value is None else [option, str(value)]
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, __file__, *words])


def put(path: Path | None, facts: dict[str, Any]) -> None:
    line = json.dumps(facts)
    print(line, flush=True)
    if path is not None:
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


if __name__ == "__main__":
    main()
