"""Eleven questions about one volume: the official way, then step by step what encoding once, sharing and batching save.

usage: python benchmarks/ask_many.py [--size tiny|small|full] [--json] [--threads N] [--dtype D] [--skip-int8]
                                     [--device cuda [--compile MODE]]

The official way runs both encoders, the prompt and the answer again for every question, one question at a time: here
with the same weights, dtype, threads, fused attention and a key/value cache within each answer. Every step keeps the
same arithmetic until int8. The limit is what the same products and bytes take at the best rates of this machine,
measured in the same run on the model's own layers. small: SmolLM2-135M and ViT-S/14 shapes, 32 slices of 224 x 224.
full: med2e3-phi3 (8.3 GiB of weights; run it alone). --json leaves one line on stdout; the table goes to stderr.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from collections import defaultdict
from contextlib import contextmanager
from statistics import median

import torch
from full_size import forget_peak, read_memory
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from slicesight.inference.compiling import MODES, compile_encoders
from slicesight.inference.cpu import processor as machine
from slicesight.inference.cpu.processor import cold_linears, count_cores, measure_rate, read_processor
from slicesight.inference.cpu.transposed_linear import use_transposed_linear
from slicesight.inference.cpu.tuning import read_tuning, tuning_for
from slicesight.inference.cpu.upcast_linear import use_upcast_linear
from slicesight.inference.predictor import Predictor
from slicesight.inference.scheduler import Scheduler
from slicesight.models.card import ModelCard
from slicesight.models.med2e3.configuration import Med2E3Config, make_preset
from slicesight.models.med2e3.processing import Med2E3Processor
from slicesight.phantoms.rendering import make_phantom
from slicesight.planning.memory import GIB, cache_bytes_per_token
from slicesight.planning.plan import DTYPES, fake_model, plan
from slicesight.planning.timing import random_model

NEW_TOKENS = 20
BLOCKS = (64, 128, 256, 512, 1024, 2048)
SMOLLM2_135M = {
    "model_type": "llama",
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
}
VIT_S_14 = {
    "model_type": "dinov2",
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "mlp_ratio": 4,
    "image_size": 224,
    "patch_size": 14,
}
VIT_S_3D = {
    "model_type": "m3d_vit",
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "intermediate_size": 1536,
}
TINY_LLAMA = {
    "model_type": "llama",
    "vocab_size": 1024,
    "hidden_size": 160,
    "intermediate_size": 448,
    "num_hidden_layers": 4,
    "num_attention_heads": 5,
    "num_key_value_heads": 5,
    "max_position_embeddings": 1024,
}
TINY_SIGLIP = {
    "model_type": "siglip_vision_model",
    "hidden_size": 64,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 96,
    "patch_size": 16,
    "vision_use_head": False,
}
TINY_CNN = {"model_type": "cnn3d", "widths": [16, 32, 64], "strides": [[2, 4, 4], [2, 2, 2], [2, 2, 2]]}
QUESTIONS = [
    "Please write a report of this scan: describe every organ in turn, what is normal, what is not, and where it lies.",
    "In which plane was this scan taken?",
    "Which contrast phase does the scan show?",
    "Which organ holds the lesion that is best seen in the lower third of the volume?",
    "What kind of abnormality is seen in the liver?",
    "Where in the organ does the abnormality lie, and how far is it from the midline?",
    "In which plane was this scan taken? Choices: A. axial B. coronal C. sagittal D. it cannot be told",
    "Which contrast phase does the scan show? Choices: A. without contrast B. arterial C. venous D. delayed",
    "Which organ holds the lesion? Choices: A. the liver B. the spleen C. the left kidney D. the right kidney",
    "What kind of abnormality is it? Choices: A. a cyst B. a calcification C. a tumour D. none of these",
    "Where does it lie? Choices: A. in the upper part B. in the middle C. in the lower part D. everywhere",
]


def build_config(size: str) -> Med2E3Config:
    if size == "full":
        return make_preset("med2e3-phi3")
    if size == "small":
        return Med2E3Config(
            image_size=(32, 224, 224), text_config=SMOLLM2_135M, vision2d_config=VIT_S_14, vision3d_config=VIT_S_3D
        )
    return Med2E3Config(
        image_size=(32, 96, 96), text_config=TINY_LLAMA, vision2d_config=TINY_SIGLIP, vision3d_config=TINY_CNN
    )


def build_reader(size: str, dtype_name: str, device: str) -> Predictor:
    """Random weights of the right shapes; a tokenizer of one token per word; no token that ends an answer."""
    config = build_config(size)
    words = sorted({word for text in [*QUESTIONS, Med2E3Processor.__doc__ or ""] for word in split_words(text)})
    special = ["<pad>", "<eos>", "<unk>"]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*special, *words])}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
    num_slices, height, width = config.image_size
    grid = {"num_slices": num_slices, "height": height, "width": width}
    processor = Med2E3Processor.for_model(config, tokenizer, grid=grid)
    model = random_model(config, dtype=dtype_name)
    model.generation_config.eos_token_id = None
    return Predictor(model=model, processor=processor, card=ModelCard(name=f"random {size}"), device=device)


def split_words(text):
    return [word for word, _ in pre_tokenizers.Whitespace().pre_tokenize_str(text)]


# --- the ways ---------------------------------------------------------------------------------------------------------


def generate(predictor, question, **volume):
    inputs = predictor.processor(question, volume_index=[0])
    with torch.inference_mode():
        inputs = {name: torch.as_tensor(value).to(predictor.model.device) for name, value in inputs.items()}
        ids = predictor.model.generate(**inputs, **volume, do_sample=False, max_new_tokens=NEW_TOKENS)
    return ids[0, inputs["input_ids"].shape[1] :].tolist()


def sample(predictor, count):
    """So many questions, evenly by the length of their prompts; all of them in their own order."""
    if count >= len(QUESTIONS):
        return QUESTIONS
    by_length = sorted(QUESTIONS, key=lambda question: len(predictor.processor.encode_prompt(question).input_ids))
    return [by_length[round(place * (len(QUESTIONS) - 1) / max(1, count - 1))] for place in range(count)]


def voxels_of(predictor, grid):
    return torch.from_numpy(grid.voxels)[None, None].to(predictor.model.device, predictor.model.dtype)


def officially(predictor, grid):
    volumes = voxels_of(predictor, grid)
    return [generate(predictor, question, volumes=volumes) for question in QUESTIONS]


def encode_once(predictor, grid, questions):
    volumes = voxels_of(predictor, grid)
    with torch.inference_mode():
        features = predictor.model.encode_volumes(volumes)
    return [generate(predictor, question, volume_features=features) for question in questions]


def through_the_scheduler(predictor, grid, questions=QUESTIONS, *, batch_size=16):
    """Token ids of every answer, which `ask` turns into text; the decoder is only listened to."""
    ids = []
    decode = predictor.processor.decode_answers

    def listen(generated, *, num_prompt_tokens):
        ids.append(generated[0].tolist())
        return decode(generated, num_prompt_tokens=num_prompt_tokens)

    predictor.processor.decode_answers = listen
    predictor.ask(grid, questions, max_new_tokens=NEW_TOKENS, batch_size=batch_size)
    del predictor.processor.decode_answers
    return ids


# --- the clock --------------------------------------------------------------------------------------------------------


class Meter:
    """Seconds, peak memory and answers of every way.

    A way that answered a sample of the questions is scaled to all of them, its one encoding (`encode` seconds) apart.
    """

    def __init__(self):
        self.seconds, self.peak, self.answers, self.asked = {}, {}, {}, {}

    def run(self, name, way, *, repeats=1, asked=QUESTIONS, encode=0.0):
        best = None
        for _ in range(repeats):
            gc.collect()
            forget_peak()
            start = machine.now()
            answers = way()
            seconds = machine.now() - start
            if best is None or seconds < best:
                best = seconds
        if len(asked) < len(QUESTIONS):
            best = encode + (best - encode) * len(QUESTIONS) / len(asked)
        self.seconds[name], self.peak[name] = best, read_memory("VmHWM")
        self.answers[name], self.asked[name] = dict(zip(asked, answers, strict=True)), len(asked)
        say(f"  {name}: {best:.2f} s")

    def equal(self, name, reference="official"):
        pairs = [(answer, self.answers[reference][asked]) for asked, answer in self.answers[name].items()]
        return sum(one == other for one, other in pairs) / len(pairs)


@contextmanager
def timed_parts(scheduler):
    """Seconds the scheduler spends in each of its parts."""
    spent = defaultdict(float)

    def watch(name, function):
        def timed(*args, **kwargs):
            start = machine.now()
            try:
                return function(*args, **kwargs)
            finally:
                spent[name] += machine.now() - start

        return timed

    scheduler.make_prefix = watch("prefix", scheduler.make_prefix)
    scheduler._pass_new = watch("suffixes", scheduler._pass_new)
    scheduler._pass_token = watch("decoding", scheduler._pass_token)
    scheduler.model.encode_volumes = watch("encoding", scheduler.model.encode_volumes)
    yield spent
    for owner, name in ((scheduler, "make_prefix"), (scheduler, "_pass_new"), (scheduler, "_pass_token")):
        delattr(owner, name)
    del scheduler.model.encode_volumes


def official_parts(predictor, grid, *, repeats):
    """Seconds of one encoding, one prefill and one further token, as the official way does them: medians.

    The prompts are the shortest, the middle and the longest one, `repeats` times each; the middle one alone for 1.
    """
    model = predictor.model
    volumes = voxels_of(predictor, grid)
    by_length = sorted(QUESTIONS, key=lambda question: len(predictor.processor.encode_prompt(question).input_ids))
    seconds = defaultdict(list)

    def timed(name, function, *, less=0.0, per=1):
        start = machine.now()
        found = function()
        seconds[name].append((machine.now() - start - less) / per)
        return found

    def said(inputs, num_tokens):
        return model.generate(**inputs, volume_features=features, max_new_tokens=num_tokens, do_sample=False)

    with torch.inference_mode():
        middle = by_length[len(by_length) // 2]
        for question in (by_length[0], middle, by_length[-1]) * repeats if repeats > 1 else [middle]:
            inputs = predictor.processor(question, volume_index=[0])
            inputs = {name: torch.as_tensor(value).to(model.device) for name, value in inputs.items()}
            features = timed("encode", lambda: model.encode_volumes(volumes))
            timed("prefill", lambda inputs=inputs: said(inputs, 1))
            timed("decode", lambda inputs=inputs: said(inputs, 9), less=seconds["prefill"][-1], per=8)
    return {name: median(values) for name, values in seconds.items()}


# --- the limit --------------------------------------------------------------------------------------------------------


def measure_rates(model):
    """Best products per second over block sizes, and bytes of weights read per second for one row."""
    layers = cold_linears(model.language_model, dtype=model.dtype)
    measure_rate(layers, rows=BLOCKS[0], dtype=model.dtype)
    flops = {rows: measure_rate(layers, rows=rows, dtype=model.dtype, repeats=3) for rows in BLOCKS}
    one = measure_rate(layers, rows=1, dtype=model.dtype, repeats=3)
    return {"flops_by_rows": flops, "flops": max(flops.values()), "bytes": one / 2 * model.dtype.itemsize}


def count_work(predictor, config, dtype_name):
    """Products and bytes of the whole task: encoding, the shared prefix, every suffix, every token."""
    model = predictor.model
    planned = plan(config, dtype=dtype_name, length=model.num_visual_tokens + 64)
    encode = sum(stage.flops for stage in planned.stages if stage.name.startswith("encode"))
    lengths = [len(predictor.processor.encode_prompt(question).input_ids) for question in QUESTIONS]
    head = predictor.processor.encode_prompt(QUESTIONS[0]).input_ids.index(config.placeholder_token_id)
    depth, rows, columns = config.vision3d_config.pooled_grid
    shared = head + depth * rows * columns
    text = config.text_config
    head_layer = model.language_model.get_output_embeddings().weight.numel()
    with fake_model(config, dtype=dtype_name, length=model.num_visual_tokens + 64) as fake:
        embedding = fake.get_input_embeddings().weight.numel()
        own_head = 0 if config.tie_word_embeddings or text.tie_word_embeddings else head_layer
        body = sum(p.numel() for p in fake.language_model.parameters()) - embedding - own_head
    width = text.num_attention_heads * (getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)

    def through(tokens, seen):
        attention = 4 * text.num_hidden_layers * width * (tokens * seen + tokens * tokens / 2)
        return 2 * body * tokens + attention

    suffixes = sum(through(length - shared, shared) + 2 * head_layer for length in lengths)
    steps = NEW_TOKENS - 1
    token_bytes = cache_bytes_per_token(config, model.dtype)
    kept = (shared + sum(length - shared for length in lengths) + len(lengths) * NEW_TOKENS / 2) * token_bytes
    step = {
        "flops": len(lengths) * (2 * (body + head_layer))
        + sum(4 * text.num_hidden_layers * width * n for n in lengths),
        "bytes": (body + head_layer) * model.dtype.itemsize + kept,
    }
    return {"encode": encode, "prefix": through(shared, 0), "suffixes": suffixes, "step": step, "steps": steps}


def find_limit(work, rates):
    """Seconds of each part at the best rates."""
    step = max(work["step"]["flops"] / rates["flops"], work["step"]["bytes"] / rates["bytes"])
    parts = {name: work[name] / rates["flops"] for name in ("encode", "prefix", "suffixes")}
    return {**parts, "decoding": work["steps"] * step}


def profile_top(way, *, count=10):
    """The operators the time goes to: (name, calls, seconds of its own, share)."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as watched:
        way()
    rows = sorted(watched.key_averages(), key=lambda row: -row.self_cpu_time_total)
    whole = sum(row.self_cpu_time_total for row in rows)
    return [
        {
            "operator": row.key,
            "calls": row.count,
            "seconds": round(row.self_cpu_time_total / 1e6, 4),
            "share": round(row.self_cpu_time_total / whole, 3),
        }
        for row in rows[:count]
    ]


# --- the report -------------------------------------------------------------------------------------------------------


def say(text):
    print(text, file=sys.stderr, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="tiny", choices=("tiny", "small", "full"))
    parser.add_argument("--dtype", choices=DTYPES, help="float32 for tiny, bfloat16 for full, else the faster")
    parser.add_argument("--threads", type=int, default=count_cores())
    parser.add_argument(
        "--clock", default="wall", choices=("wall", "cpu"), help="cpu: seconds of work, on a shared machine; one thread"
    )
    parser.add_argument("--device", default="cpu", help="cuda: limits are measured there too; int8 is left out")
    parser.add_argument("--compile", dest="compile_mode", choices=MODES, help="one more step: compiled encoders")
    parser.add_argument("--repeats", type=int, help="runs of every way but the official one at full size; best counts")
    parser.add_argument(
        "--sample",
        type=int,
        help="questions the steps `encode once` and `shared prefix` answer; 3 at full size, else all",
    )
    parser.add_argument("--skip-int8", action="store_true")
    parser.add_argument("--json", action="store_true", help="nothing but one line of JSON on stdout")
    args = parser.parse_args()
    if args.clock == "cpu":
        args.threads, machine.now = 1, time.process_time
    if args.device != "cpu":
        args.skip_int8 = True
        machine.now = lambda: (torch.cuda.synchronize(), time.perf_counter())[1]
    torch.set_num_threads(args.threads)
    dtype_name = args.dtype or ({"tiny": "float32", "full": "bfloat16"}.get(args.size) or read_tuning().dtype)
    repeats = args.repeats or {"tiny": 3, "small": 2, "full": 1}[args.size]
    predictor = build_reader(args.size, dtype_name, args.device)
    config = predictor.model.config
    grid = predictor.grid(make_phantom(5, 0, pixel_mm=(3.5, 4.0)).volume)
    say(f"{args.size}, {dtype_name}, {args.threads} threads, 11 questions, {NEW_TOKENS} new tokens each")

    rates = measure_rates(predictor.model)
    predictor._scheduler = Scheduler(predictor.model)
    say(f"best {rates['flops'] / 1e12:.3f} TFLOP/s, weights {rates['bytes'] / 1e9:.1f} GB/s")
    say(f"tokens of a block: {predictor.scheduler.block_tokens}")
    meter = Meter()
    once = 1 if args.size == "full" else repeats
    if args.size != "full":
        generate(predictor, QUESTIONS[1], volumes=voxels_of(predictor, grid))
    meter.run("official", lambda: officially(predictor, grid), repeats=once)
    parts = official_parts(predictor, grid, repeats=repeats)
    expected = len(QUESTIONS) * (parts["encode"] + parts["prefill"] + NEW_TOKENS * parts["decode"])
    asked = sample(predictor, args.sample or (3 if args.size == "full" else len(QUESTIONS)))
    part = {"asked": asked, "encode": parts["encode"]}
    meter.run("encode once", lambda: encode_once(predictor, grid, asked), repeats=once, **part)
    if args.device == "cpu" and tuning_for(predictor.model.language_model).is_turned:
        use_transposed_linear(predictor.model.language_model)
    meter.run(
        "shared prefix", lambda: through_the_scheduler(predictor, grid, asked, batch_size=1), repeats=repeats, **part
    )
    with timed_parts(predictor.scheduler) as spent:
        meter.run("batched decoding", lambda: through_the_scheduler(predictor, grid), repeats=repeats)
    if args.device == "cpu" and tuning_for(predictor.model.language_model).is_widened:
        use_upcast_linear(predictor.model)
        predictor._scheduler = Scheduler(predictor.model)
        say(f"products in float32 are faster here; tokens of a block: {predictor.scheduler.block_tokens}")
        with timed_parts(predictor.scheduler) as spent:
            meter.run("wide products", lambda: through_the_scheduler(predictor, grid), repeats=repeats)
    if args.compile_mode:
        args.skip_int8 = True
        compile_encoders(predictor.model, mode=args.compile_mode)
        through_the_scheduler(predictor, grid)
        meter.run("compiled encoders", lambda: through_the_scheduler(predictor, grid), repeats=repeats)
    spent = {name: seconds / repeats for name, seconds in spent.items()}
    work = count_work(predictor, config, dtype_name)
    again = measure_rates(predictor.model)
    rates = {name: max(rates[name], again[name]) for name in ("flops", "bytes")} | {
        "flops_by_rows": {
            rows: max(rate, again["flops_by_rows"][rows]) for rows, rate in rates["flops_by_rows"].items()
        }
    }
    limit = find_limit(work, rates)
    top = profile_top(lambda: through_the_scheduler(predictor, grid))
    if not args.skip_int8:
        from slicesight.inference.cpu.int8 import quantize_model

        quantize_model(predictor.model, quantize="int8", device="cpu")
        predictor._scheduler = Scheduler(predictor.model)
        say(f"in 8 bits; tokens of a block: {predictor.scheduler.block_tokens}")
        meter.run("int8", lambda: through_the_scheduler(predictor, grid), repeats=repeats)
    report(args, dtype_name, meter, parts, expected, spent, work, rates, limit, top)


def report(args, dtype_name, meter, parts, expected, spent, work, rates, limit, top):
    official = meter.seconds["official"]
    ours = meter.seconds.get("wide products", meter.seconds["batched decoding"])
    least = sum(limit.values())
    out = sys.stderr if args.json else sys.stdout
    print(f"\n| {'way':22} | {'s':>8} | {'times official':>14} | {'same answers':>12} | {'peak GiB':>8} |", file=out)
    print("|---|---|---|---|---|", file=out)
    for name, seconds in meter.seconds.items():
        name_and_sample = name if meter.asked[name] == len(QUESTIONS) else f"{name} ({meter.asked[name]} of 11)"
        row = f"| {name_and_sample:22} | {seconds:>8.2f} | {official / seconds:>14.2f} | {meter.equal(name):>12.2f} "
        print(row + f"| {meter.peak[name] / GIB:>8.2f} |", file=out)
    print(f"| {'limit':22} | {least:>8.2f} | {official / least:>14.2f} | | |", file=out)
    print(
        f"\nofficial is {official / expected:.3f} of 11 x (encode {parts['encode']:.3f} + prefill "
        f"{parts['prefill']:.3f} + {NEW_TOKENS} x {parts['decode']:.4f} s)",
        file=out,
    )
    print(
        f"\n| {'part':10} | {'s':>7} | {'limit s':>8} | {'TFLOP':>7} | {'GB read':>8} |\n|---|---|---|---|---|",
        file=out,
    )
    step, steps = work["step"], work["steps"]
    for name, key in (("encoding", "encode"), ("prefix", "prefix"), ("suffixes", "suffixes")):
        print(f"| {name:10} | {spent[name]:>7.2f} | {limit[key]:>8.2f} | {work[key] / 1e12:>7.3f} | |", file=out)
    print(
        f"| {'decoding':10} | {spent['decoding']:>7.2f} | {limit['decoding']:>8.2f} "
        f"| {steps * step['flops'] / 1e12:>7.3f} | {steps * step['bytes'] / 1e9:>8.1f} |",
        file=out,
    )
    print("\nwhat is left, by operator:", file=out)
    for row in top:
        print(f"  {row['share']:>6.1%} {row['seconds']:>9.3f} s {row['calls']:>7} x {row['operator']}", file=out)
    found = {
        "benchmark": "ask_many",
        "size": args.size,
        "dtype": dtype_name,
        "threads": args.threads,
        "clock": args.clock,
        "device": args.device,
        "questions_timed": meter.asked,
        "ratio_vs_official": round(official / ours, 3),
        "ratio_vs_limit": round(ours / least, 3),
        "ratio_int8_vs_official": round(official / meter.seconds["int8"], 3) if "int8" in meter.seconds else None,
        "official_vs_sum_of_parts": round(official / expected, 3),
        "seconds": {name: round(seconds, 4) for name, seconds in meter.seconds.items()},
        "limit_s": {name: round(seconds, 4) for name, seconds in limit.items()},
        "spent_s": {name: round(seconds, 4) for name, seconds in spent.items()},
        "same_answers": {name: round(meter.equal(name), 3) for name in meter.seconds},
        "peak_gib": {name: round(peak / GIB, 3) for name, peak in meter.peak.items()},
        "tflops_by_rows": {rows: round(rate / 1e12, 4) for rows, rate in rates["flops_by_rows"].items()},
        "gb_per_s": round(rates["bytes"] / 1e9, 2),
        "matrix_unit": read_processor().has_matrix_unit,
        "top_ten": top,
    }
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
