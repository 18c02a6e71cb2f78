"""How fast are eleven questions about one volume answered on a GPU, against the official way and against its limit?

The item `ask_many ...` of gpu.py, with the model, the questions and the ways of ask_many.py. Weights are random and are
made on the device.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch
from ask_many import (
    NEW_TOKENS,
    QUESTIONS,
    build_reader,
    count_work,
    encode_once,
    find_limit,
    generate,
    officially,
    through_the_scheduler,
    timed_parts,
    voxels_of,
)
from gpu_clock import Bench, clock, short

from slicesight.inference.compiling import compile_encoders
from slicesight.phantoms.rendering import make_phantom

TIMES_OFFICIAL, TIMES_LIMIT = 8.0, 1.3
REPEATS = {"official": 2, "encode once": 1, "shared prefix": 1}
USUAL_REPEATS = 7
PARTS = {"encoding": "encode", "prefix": "prefix", "suffixes": "suffixes", "decoding": "decoding"}


def list_items(sizes: list[str]) -> dict[str, Callable[[Bench], dict[str, Any]]]:
    return {f"ask_many {size}": partial(ask_many, size=size) for size in reversed(sizes)}


def ask_many(bench: Bench, size: str) -> dict[str, Any]:
    """Seconds of every way, of every part against its limit, and what the device did meanwhile."""
    is_short = bench.sizes == ["tiny"]
    rates = bench.limits_from(bench.dtype_name)
    with torch.device(bench.device):
        predictor = build_reader(size, bench.dtype_name, bench.device)
    grid = predictor.grid(make_phantom(5, 0, pixel_mm=(3.5, 4.0)).volume)
    facts: dict[str, Any] = {"size": size, "dtype": bench.dtype_name, "questions": len(QUESTIONS)}
    facts["new_tokens_each"] = NEW_TOKENS
    generate(predictor, QUESTIONS[1], volumes=voxels_of(predictor, grid))
    ways = {
        "official": partial(officially, predictor, grid),
        "encode once": partial(encode_once, predictor, grid, QUESTIONS),
        "shared prefix": partial(through_the_scheduler, predictor, grid, batch_size=1),
        "batched": partial(through_the_scheduler, predictor, grid),
    }
    seconds: dict[str, Any] = {}
    answers: dict[str, Any] = {}

    def answer(name: str, way: Callable[[], Any]) -> None:
        answers[name] = way()

    for name, way in ways.items():
        repeats = 1 if is_short else REPEATS.get(name, USUAL_REPEATS)
        seconds[name] = clock(bench, partial(answer, name, way), repeats=repeats, warm_up=int(name == "batched"))
    parts = {"batched": time_parts(bench, predictor, grid, repeats=1 if is_short else 5)}
    start = bench.now()
    try:
        compile_here(bench, predictor.model)
        answers["batched, compiled encoders"] = ways["batched"]()
        ways["batched"]()  # CUDA graphs are recorded in the second run
        facts["compile_seconds"] = short(bench.now() - start)
        name = "batched, compiled encoders"
        seconds[name] = clock(bench, ways["batched"], repeats=1 if is_short else USUAL_REPEATS)
        parts[name] = time_parts(bench, predictor, grid, repeats=1 if is_short else 5)
    except Exception as error:  # the other ways' times stay
        facts["compile_error"] = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    try:
        facts["device"] = watch_device(bench, ways["batched"])
    except Exception as error:  # the times stay
        facts["device"] = {"error": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
    work = count_work(predictor, predictor.model.config, bench.dtype_name)
    limit = find_limit(work, rates)
    if bench.on_gpu:
        facts["peak_gib"] = short(torch.cuda.max_memory_allocated() / 2**30)
    return facts | judge(seconds, parts, limit, work, answers)


def judge(
    seconds: dict[str, Any],
    parts: dict[str, Any],
    limit: dict[str, float],
    work: dict[str, Any],
    answers: dict[str, Any],
) -> dict[str, Any]:
    official, least = seconds["official"]["seconds"], sum(limit.values())
    ours = min((name for name in seconds if name.startswith("batched")), key=lambda name: seconds[name]["seconds"])
    best = seconds[ours]["seconds"]
    step, steps = work["step"], work["steps"]
    return {
        "seconds": {name: row | {"seconds": short(row["seconds"])} for name, row in seconds.items()},
        "times_official": {name: short(official / row["seconds"]) for name, row in seconds.items()},
        "same_answers": {
            name: round(sum(a == b for a, b in zip(found, answers["official"], strict=True)) / len(found), 3)
            for name, found in answers.items()
        },
        "limit_s": {name: short(limit[key]) for name, key in PARTS.items()} | {"together": short(least)},
        "spent_s": {way: {name: short(value) for name, value in row.items()} for way, row in parts.items()},
        "spent_over_limit": {
            way: {name: short(row[name] / limit[key], 3) for name, key in PARTS.items()} for way, row in parts.items()
        },
        "tflop": {name: short(work[key] / 1e12) for name, key in list(PARTS.items())[:3]}
        | {"decoding": short(steps * step["flops"] / 1e12)},
        "decoding_gb_read": short(steps * step["bytes"] / 1e9),
        "best_way": ours,
        "ratio_vs_official": short(official / best),
        "ratio_vs_limit": short(best / least),
        "aims_met": {"official": official / best >= TIMES_OFFICIAL, "limit": best / least <= TIMES_LIMIT},
    }


def time_parts(bench: Bench, predictor: Any, grid: Any, *, repeats: int) -> dict[str, float]:
    """Median seconds of each of the scheduler's parts, the clock stopped for the device before and after each."""
    rows = []
    for _ in range(repeats):
        with timed_parts(predictor.scheduler) as spent:
            start = bench.now()
            through_the_scheduler(predictor, grid)
            whole = bench.now() - start
        rows.append({**spent, "everything else": whole - sum(spent.values())})
    return {name: median(row[name] for row in rows) for name in rows[0]}


def watch_device(bench: Bench, way: Any) -> dict[str, Any]:
    """The share of the time in which the device computed; the rest it waited for what comes next.

    The profiler's hooks stay and slow every later launch down: this comes last, and nothing is timed afterwards.
    """
    if not bench.on_gpu:
        return {"skipped": "needs cuda"}
    bench.is_used_up = True
    from torch.profiler import ProfilerActivity, profile

    start = bench.now()
    way()
    usual = bench.now() - start
    with profile(activities=[ProfilerActivity.CUDA]) as watched:  # beside the host's events these take minutes to sum
        way()
        bench.sync()
    kernels = [row for row in watched.key_averages() if row.self_device_time_total]
    kernels.sort(key=lambda row: -row.self_device_time_total)
    busy = sum(row.self_device_time_total for row in kernels) / 1e6
    return {
        "kernels": sum(row.count for row in kernels),
        "busy_s": short(busy),
        "of_s": short(usual),
        "share": short(busy / usual, 3),
        "most": [
            {"kernel": row.key[:80], "calls": row.count, "ms": short(row.self_device_time_total / 1e3)}
            for row in kernels[:6]
        ],
    }


def compile_here(bench: Bench, model: Any) -> None:
    """CUDA graphs on a GPU; on a CPU only the tracing, for there inductor's compiler takes longer than all the rest."""
    if bench.on_gpu:
        compile_encoders(model, mode="reduce-overhead")
    else:
        compile_encoders(model, backend="eager")
