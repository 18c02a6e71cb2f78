"""How many questions a second does a training step take in, against the official way, and how near is it to the limit?

usage: OMP_NUM_THREADS=2 python benchmarks/train_step.py [--sizes tiny small] [--stages 1 2] [--volumes 2] [--rounds 5]

The official way: a batch of single question-answer pairs, so both encoders run once per question. Ours: a batch of
volumes with their eleven questions; with packing, their common beginning runs once; with the cache, frozen encoders do
not run at all. All ways do the same step on the same questions with the same weights, reading, tokenising and collating
included; they take turns, and the ratio is the median over the rounds. The limit is the ratio of floating-point
operations (forward and backward), counted while each way runs. Stage 1 trains the connectors, stage 2 language model
and 2D encoder too. --clock cpu counts the processor's time instead of the wall clock's, for a machine that does other
work. --full-size adds the limit of sharing at the paper's sizes, which needs no weights. The last line is JSON.
"""

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from slicesight.data.dataset import Dataset
from slicesight.models.med2e3.configuration import Med2E3Config, make_preset
from slicesight.models.med2e3.modeling import Med2E3ForConditionalGeneration
from slicesight.models.med2e3.processing import Med2E3Processor
from slicesight.phantoms.folder import phantom_case
from slicesight.phantoms.rendering import make_phantom
from slicesight.planning.plan import plan_training
from slicesight.training.collate import Collator, PromptWriter, StepParts
from slicesight.training.feature_cache import fill_caches, open_caches
from slicesight.training.packing import PackingCollator
from slicesight.training.recipe import Stage
from slicesight.training.run import set_trainable
from slicesight.training.schedule import Schedule
from slicesight.training.start import train_tokenizer

STAGES = {
    1: ("projector_3d", "projector_2d", "scorer"),
    2: ("projector_3d", "projector_2d", "scorer", "language_model", "vision2d"),
}
ALLOWED = 0.8


@dataclass(frozen=True, kw_only=True)
class Size:
    """N x H x W voxels; width and layers of both encoders and of the language model."""

    image: tuple[int, int, int]
    vision: tuple[int, int]
    language: tuple[int, int]


SIZES = {
    "tiny": Size(image=(16, 64, 64), vision=(192, 4), language=(256, 4)),
    "small": Size(image=(16, 128, 128), vision=(256, 6), language=(384, 6)),
}


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to do the same step."""

    name: str
    is_official: bool = False
    packs: bool = False
    caches: bool = False
    times: list[float] = field(default_factory=list)


class Scans(Dataset):
    """Random volumes with the texts of phantoms."""

    preparation = "benchmark"

    def __init__(self, image, count):
        rng = np.random.default_rng(0)
        self.volumes = [rng.random(image, dtype=np.float32) for _ in range(count)]
        self.cases = [
            phantom_case(make_phantom(5, n, pixel_mm=(7.0, 8.0)), seed=5, index=n, volume=str(n)) for n in range(count)
        ]

    def grid(self, case, spec):
        raise NotImplementedError

    def stamp(self, case):
        return case.id

    def content(self, case):
        return case.id

    def voxels(self, case):
        return self.volumes[int(case.volume)]

    def true_slices(self, case, conversation):
        return np.zeros(len(self.volumes[0]), dtype=bool)

    def plane(self, case):
        return None

    def fingerprint(self, case):
        return case.id


class PairCollator:
    """The official batch: every question comes with a volume of its own."""

    def __init__(self, writer):
        self.collate = Collator(writer)

    def __call__(self, parts):
        pairs = [
            replace(item, conversations=[asked], prompts=[prompt], true_slices_QN=shown[None])
            for part in parts
            for item in part
            for asked, prompt, shown in zip(item.conversations, item.prompts, item.true_slices_QN, strict=True)
        ]
        return self.collate([pairs])


def make_model(size, texts):
    """Random weights and a processor whose tokenizer has read the texts."""
    tokenizer = train_tokenizer(texts, vocab_size=4000)
    width, layers = size.vision
    vision = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 64,
    }
    language_width, language_layers = size.language
    config = Med2E3Config(
        image_size=size.image,
        text_config={
            "model_type": "llama",
            "vocab_size": 4000,
            "hidden_size": language_width,
            "intermediate_size": 3 * language_width,
            "num_hidden_layers": language_layers,
            "num_attention_heads": language_width // 64,
            "num_key_value_heads": language_width // 64,
            "pad_token_id": 0,
            "bos_token_id": None,
        },
        vision2d_config={
            "model_type": "siglip_vision_model",
            **vision,
            "image_size": size.image[1],
            "patch_size": 16,
            "vision_use_head": False,
        },
        vision3d_config={"model_type": "m3d_vit", **vision, "patch_size": [4, 16, 16]},
    )
    processor = Med2E3Processor.for_model(config, tokenizer, template="short")
    return Med2E3ForConditionalGeneration(config), processor


def measure(size_name, stage_number, *, num_volumes, rounds, clock):
    """Time every way and count its operations -> a row per way."""
    size = SIZES[size_name]
    scans = Scans(size.image, num_volumes)
    texts = [f"{asked.prompt} Answer: {asked.target}" for case in scans.cases for asked in case.conversations]
    torch.manual_seed(0)
    model, processor = make_model(size, texts)
    set_trainable(model, STAGES[stage_number])
    stage = Stage(name="s", trainable=(), learning_rate=1e-5, steps=1, volumes_per_step=num_volumes)
    writer = PromptWriter(processor=processor)
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=0.0)  # all its work, and the same loss for every way
    ways = [
        Way(name="official", is_official=True),
        Way(name="shared"),
        Way(name="shared, cache", caches=True),
        Way(name="shared, packing", packs=True),
        Way(name="shared, packing, cache", packs=True, caches=True),
    ]
    with tempfile.TemporaryDirectory() as folder:
        caches = open_caches(folder, model, scans, bf16=False)
        fill_caches(caches, model, scans, range(num_volumes), device=torch.device("cpu"))
        model.train()
        losses = {}

        def step(way):
            used = caches if way.caches else []
            collate = PairCollator(writer) if way.is_official else Collator(writer)
            if way.packs:
                collate = PackingCollator(collate, model)
            parts = StepParts(
                scans, Schedule(scans, stage, seed=0), writer, seed=0, caches=used, needs_voxels=len(used) < 2
            )
            batch = collate([parts[0]])
            for name in ("num_cut", "true_slices"):
                batch.pop(name)
            loss = model(**batch).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.setdefault(way.name, []).append(loss.item())

        flops = {}
        for way in ways:  # also the warm-up
            with FlopCounterMode(display=False) as counter:
                step(way)
            flops[way.name] = counter.get_total_flops()
        now = time.process_time if clock == "cpu" else time.perf_counter
        for _ in range(rounds):
            for way in ways:
                begin = now()
                step(way)
                way.times.append(now() - begin)
    num_questions = sum(len(case.conversations) for case in scans.cases)
    rows = []
    for way in ways:
        ratio = statistics.median(base / own for base, own in zip(ways[0].times, way.times, strict=True))
        limit = flops["official"] / flops[way.name]
        rows.append(
            {
                "size": size_name,
                "stage": stage_number,
                "way": way.name,
                "questions_per_s": round(num_questions / statistics.median(way.times), 2),
                "ratio": round(ratio, 2),
                "limit": round(limit, 2),
                "of_limit": round(ratio / limit, 2),
                "gflop_per_question": round(flops[way.name] / num_questions / 1e9, 2),
                "first_loss_differs_by": abs(losses[way.name][0] - losses["official"][0]),
            }
        )
    return rows


def limit_at_full_size(stage_number):
    """The limit of sharing the encoders among eleven questions for med2e3-phi3, prompts of 620 tokens."""
    config = make_preset("med2e3-phi3")
    one, eleven = (
        plan_training(config, f"stage {stage_number}", num_questions=number, length=620).flops for number in (1, 11)
    )
    return 11 * one / eleven


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--stages", nargs="+", type=int, choices=STAGES, default=list(STAGES))
    parser.add_argument("--volumes", type=int, default=2, help="volumes a step, with eleven questions each")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--full-size", action="store_true")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    args = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, {args.volumes} volumes x 11 questions a step, {args.clock} clock")
    print(f"{'size':7}{'stage':6}{'way':24}{'questions/s':>12}{'ratio':>8}{'limit':>8}{'of limit':>10}")
    rows = []
    for size in args.sizes:
        for stage in args.stages:
            for row in measure(size, stage, num_volumes=args.volumes, rounds=args.rounds, clock=args.clock):
                rows.append(row)
                print(
                    f"{row['size']:7}{row['stage']:<6}{row['way']:24}{row['questions_per_s']:>12.2f}"
                    f"{row['ratio']:>8.2f}{row['limit']:>8.2f}{row['of_limit']:>10.2f}",
                    flush=True,
                )
    full_size = {}
    if args.full_size:
        full_size = {f"stage {number}": round(limit_at_full_size(number), 2) for number in args.stages}
        print(f"limit of sharing at the paper's sizes (620 tokens a prompt): {full_size}")
    ours = [row for row in rows if row["way"] != "official"]
    lowest = min(row["of_limit"] for row in ours)
    print(f"lowest share of the limit: {lowest:.2f} (wanted: {ALLOWED})")
    print(json.dumps({"lowest_of_limit": lowest, "clock": args.clock, "full_size_limit": full_size, "rows": rows}))


if __name__ == "__main__":
    main()
