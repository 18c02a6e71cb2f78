"""Does the converted model compute what the official code computed? The largest difference of every tensor.

usage: python tests/parity/official.py GOLDEN_DIR [DEVICE]

Rebuilds GOLDEN_DIR's weights into a temporary folder, converts them, runs every sample and compares with golden.npz.
Exit code 1 past a tolerance. Nothing is written into GOLDEN_DIR.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForImageTextToText

from slicesight.models.importers.med2e3 import convert_released
from slicesight.models.med2e3 import TEMPLATES, Med2E3Processor
from slicesight.models.med2e3 import slice_scoring as tgis

TENSORS, LOSSES, PAPER = 1e-4, 1e-5, 1e-5
PLACE_OFFICIAL = -201  # the official id of <image3d>


@dataclass
class Comparison:
    """Prints one line per tensor and remembers what was past its tolerance, and every tensor's relative difference.

    only_measures: nothing is past a tolerance (another dtype than the golden tensors').
    """

    only_measures: bool = False
    failures: int = 0
    compared: int = 0
    relative: dict[str, float] = field(default_factory=dict)
    absolute: dict[str, float] = field(default_factory=dict)

    def differ(self, name: str, found: Any, expected: Any, tolerance: float, *, relative: bool = False) -> None:
        found, expected = as_numbers(found), as_numbers(expected)
        assert found.shape == expected.shape, f"{name}: {found.shape} against {expected.shape}"
        difference = self.absolute[name] = float(np.abs(found - expected).max())
        self.relative[name] = difference / float(np.abs(expected).max())
        if relative:
            difference = self.relative[name]
        self.note(
            name,
            f"{difference:.2e} (at most {tolerance:.0e}{' relative' if relative else ''})",
            self.only_measures or difference <= tolerance,
        )

    def equal(self, name: str, found: Any, expected: Any) -> None:
        self.note(name, "equal" if found == expected else f"differs: {found} against {expected}", found == expected)

    def note(self, name: str, text: str, good: bool) -> None:
        self.compared += 1
        self.failures += not good
        print(f"{'ok  ' if good else 'FAIL'} {name:44} {text}")


def compare(golden_dir: Path, *, device: str = "cpu") -> int:
    comparison = Comparison()
    with tempfile.TemporaryDirectory() as folder:
        converted = rebuild(golden_dir, Path(folder))
        model = AutoModelForImageTextToText.from_pretrained(converted, dtype=torch.float32).eval().to(device)
        processor = Med2E3Processor.from_pretrained(converted)
        compare_samples(golden_dir, model, processor, comparison)
        compare_prompts(golden_dir, processor, comparison)
    compare_paper(golden_dir, comparison)
    print(f"\n{comparison.compared - comparison.failures} of {comparison.compared} within tolerance")
    return 1 if comparison.failures else 0


def rebuild(golden_dir: Path, folder: Path) -> Path:
    """The golden weights rebuilt in `folder` and converted; where the converted model lies."""
    official, converted = folder / "official", folder / "converted"
    rebuilt = [sys.executable, "-B", str(golden_dir / "rebuild.py"), str(golden_dir), str(official)]
    subprocess.run(rebuilt, check=True, stdout=sys.stderr)
    report = convert_released(official, converted, question_tokenizer=golden_dir / "m3d_clip_tokenizer")
    print(report, end="\n\n")
    return converted


def as_numbers(values: Any) -> np.ndarray:
    """In float64 on the CPU, from wherever and whatever they are."""
    if isinstance(values, torch.Tensor):
        values = values.detach().double().cpu()
    return np.asarray(values, dtype=np.float64)


@torch.no_grad()
def compare_samples(golden_dir: Path, model: Any, processor: Med2E3Processor, comparison: Comparison) -> None:
    golden = np.load(golden_dir / "golden.npz")
    meta = json.loads((golden_dir / "meta.json").read_text())
    formula = load_formula(golden_dir)
    volumes = [torch.from_numpy(formula.volume(meta["seed"], i)) for i in range(len(meta["questions"]))]
    for i, (question, answer) in enumerate(zip(meta["questions"], meta["answers"], strict=True)):
        compare_sample(f"s{i}", golden, model, processor, question, answer, volumes[i], comparison)
    batch = place(processor(meta["questions"], volumes=volumes, answers=meta["answers"]), model)
    outputs = model(**batch)
    comparison.differ("batch.train.loss", outputs.loss, golden["batch.train.loss"], LOSSES, relative=True)
    if "batch.train.scores" in golden:
        comparison.differ(
            "batch.train.scores", outputs.slice_scores.transpose(1, 2), golden["batch.train.scores"], TENSORS
        )
    left = model(
        **place(processor(meta["questions"], volumes=volumes, answers=meta["answers"], padding_side="left"), model)
    )
    comparison.differ("batch.train.loss, padded left", left.loss, golden["batch.train.loss"], LOSSES, relative=True)
    expected = [golden[f"s{i}.generated_ids"][0].tolist() for i in range(len(volumes))]
    together = generate(model, place(processor(meta["questions"], volumes=volumes), model), max(map(len, expected)))
    for i, ids in enumerate(expected):
        comparison.equal(f"s{i}.generated_ids, in one batch", together[i][: len(ids)], ids)


def compare_sample(
    name: str,
    golden: Any,
    model: Any,
    processor: Med2E3Processor,
    question: str,
    answer: str,
    volume: Any,
    comparison: Comparison,
) -> None:
    batch = place(processor(question, volumes=volume[None]), model)
    found = look_inside(model, batch)
    for key, tensor in found.items():
        comparison.differ(f"{name}.{key}", tensor, golden[f"{name}.{key}"], TENSORS)
    comparison.equal(
        f"{name}.input_ids",
        collapse(batch["input_ids"][0].tolist(), processor),
        golden[f"{name}.input_ids"][0].tolist(),
    )
    expected = golden[f"{name}.generated_ids"][0].tolist()
    comparison.equal(f"{name}.generated_ids", generate(model, batch, len(expected))[0], expected)
    train = place(processor(question, volumes=volume[None], answers=answer), model)
    comparison.equal(
        f"{name}.train.final_labels", train["labels"][0].tolist(), golden[f"{name}.train.final_labels"][0].tolist()
    )
    loss = model(**train).loss
    comparison.differ(f"{name}.train.loss", loss, golden[f"{name}.train.loss"], LOSSES, relative=True)


@torch.no_grad()
def look_inside(model: Any, batch: Any) -> dict[str, torch.Tensor]:
    """The tensors on the way from one prompt to its next word, by the official code's names."""
    features = model.encode_volumes(batch["volumes"])
    slices_S1HW = batch["volumes"].transpose(1, 2).flatten(0, 1)
    encoded_3d = model.vision3d.encoder(batch["volumes"]).flatten(1, 3)
    encoded_2d = model.vision2d(slices_S1HW)
    text = model.scorer.text_encoder(input_ids=batch["question_ids"], attention_mask=batch["question_ids_mask"])
    seen = {}
    handle = model.language_model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.update(embeds=kwargs["inputs_embeds"]), with_kwargs=True
    )
    outputs = model(**{k: v for k, v in batch.items() if k != "volumes"}, volume_features=features)
    handle.remove()
    weighted = tgis.weigh_slices(outputs.slice_scores, features.tokens_2d_VNLD, batch["volume_index"])[0]
    return {
        "text_pooler_output": text.pooler_output,
        "scores": outputs.slice_scores.transpose(1, 2),
        "vision3d_encoder_patch_mean": encoded_3d.mean(1),
        "vision3d_connector_out": features.tokens_3d_VKPD.flatten(1, 2),
        "vision2d_encoder_slice_mean": encoded_2d.mean(1),
        "vision2d_connector_slice_mean": features.tokens_2d_VNLD[0].mean(1),
        "vision2d_connector_slice0_first4": features.tokens_2d_VNLD[0, 0, :4],
        "vision2d_weighted": weighted,
        "inputs_embeds": seen["embeds"],
        "last_logits": outputs.logits[:, -1],
    }


def place(batch: Any, model: Any) -> Any:
    """The processor's output where the model is, numbers in its dtype."""
    return batch.to(model.device, model.dtype)


def generate(model: Any, batch: Any, num_tokens: int) -> list[list[int]]:
    """The greedy continuation of every prompt."""
    ids = model.generate(**batch, max_new_tokens=num_tokens, do_sample=False)
    return ids[:, batch["input_ids"].shape[1] :].tolist()


def compare_prompts(golden_dir: Path, processor: Med2E3Processor, comparison: Comparison) -> None:
    """All pinned prompts; labels too, except of several turns, where the official code supervises nothing at all."""
    pinned = json.loads((golden_dir / "prompts.json").read_text())
    opening = processor.tokenizer.bos_token_id
    for variant, content in pinned.items():
        for case, prompt in content["cases"].items():
            template = prompt["conv_version"]
            processor.prompt = TEMPLATES[template]
            processor.opening_ids = [opening] if variant == "add_bos_true" and processor.prompt.is_opened else []
            turns = [turn["value"] for turn in prompt["conversations"]]
            history, question, answer = list(zip(turns[:-2:2], turns[1:-2:2], strict=True)), turns[-2], turns[-1]
            num_volumes = sum("<image3d>" in turn for turn in turns)
            for mode in ("train", "eval"):
                encoded = processor.encode_prompt(
                    question,
                    answer=answer if mode == "train" else None,
                    history=history,
                    num_volumes=num_volumes,
                    supervise="all",
                )
                name = f"{variant}.{case}.{mode}"
                comparison.equal(f"{name}.input_ids", collapse(encoded.input_ids, processor), prompt[mode]["input_ids"])
                if mode == "train" and not prompt[mode]["mismatch_warning"]:
                    labels = [token for token in encoded.labels if token != -100]
                    comparison.equal(f"{name}.labels", labels, [t for t in prompt[mode]["labels"] if t != -100])


def compare_paper(golden_dir: Path, comparison: Comparison) -> None:
    """The paper's own TG-IS, if the folder has it."""
    path = golden_dir / "paper_tgis.npz"
    if not path.is_file():
        return
    golden = np.load(path)
    index = torch.zeros(1, 1, dtype=torch.long)
    for case in sorted({name.split(".")[0] for name in golden.files}):
        tokens_2d = torch.from_numpy(golden[f"{case}.V2"])[None]
        tokens_3d = torch.from_numpy(golden[f"{case}.V3"]).unflatten(0, (int(golden[f"{case}.layers"]), -1))[None]
        embeds = torch.from_numpy(golden[f"{case}.E"][golden[f"{case}.question_ids"]])[None]
        text = tgis.average_question(embeds, torch.ones(embeds.shape[:2], dtype=torch.bool))
        vectors = tgis.describe_slices(tokens_3d, tokens_2d, num_slices=tokens_2d.shape[1])
        dots = tgis.rate_slices(text, vectors, index)
        scores = tgis.normalise_scores(dots, index)
        weighted = tgis.weigh_slices(scores, tokens_2d, index)
        joined = tgis.join_branches(tokens_3d, weighted, index)
        found = {"text": text, "z": vectors, "dots": dots[0], "scores": scores[0], "z2D": weighted[0], "zI": joined[0]}
        for key, tensor in found.items():
            comparison.differ(f"paper.{case}.{key}", tensor[0], golden[f"{case}.{key}"], PAPER)


def collapse(input_ids: list[int], processor: Med2E3Processor) -> list[int]:
    """Each run of placeholders as the one id the official code has there."""
    collapsed, size = [], processor.num_visual_tokens
    position = 0
    while position < len(input_ids):
        is_place = input_ids[position] == processor.placeholder_token_id
        collapsed.append(PLACE_OFFICIAL if is_place else input_ids[position])
        position += size if is_place else 1
    return collapsed


def load_formula(golden_dir: Path) -> ModuleType:
    """formula.py of the golden folder, which makes its volumes."""
    spec = importlib.util.spec_from_file_location("golden_formula", golden_dir / "formula.py")
    assert spec is not None
    assert spec.loader is not None
    sys.dont_write_bytecode = True
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3) or sys.argv[1] in ("-h", "--help"):
        sys.exit(__doc__)
    sys.exit(compare(Path(sys.argv[1]).resolve(), device=sys.argv[2] if len(sys.argv) == 3 else "cpu"))
