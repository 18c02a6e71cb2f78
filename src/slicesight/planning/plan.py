"""Does this configuration fit, and what does it cost? Parameters, memory and work before anything is loaded.

The model is run once on fake tensors, which have shapes but no numbers: every allocation and every product is counted
exactly as the real run makes them, in seconds, for a model of any size. What kernels use inside is not seen.
S visual tokens per volume, T tokens of the whole sequence, B questions about one volume.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import initialization as init

from slicesight.errors import ModelError
from slicesight.files import read_json_object
from slicesight.models.folder import one_line_for_damage
from slicesight.models.med2e3 import Med2E3Config, Med2E3ForConditionalGeneration, VolumeFeatures
from slicesight.models.med2e3.configuration import make_preset
from slicesight.models.med2e3.matching import count_visual_tokens, place_visual_tokens
from slicesight.models.med2e3.slice_scorer import Question
from slicesight.models.shipped import find_folder, how_to_get
from slicesight.planning.accounting import AllocationCounter, WorkStage
from slicesight.planning.memory import GIB as GIB
from slicesight.planning.memory import find_free_bytes as find_free_bytes
from slicesight.planning.memory import questions_at_once

RUNTIME_BYTES = int(0.45 * GIB)  # Python, torch and transformers themselves, before any weight
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TRAINED_PARTS = {
    "stage 1": ("projector_3d", "projector_2d", "scorer"),
    "stage 2": ("projector_3d", "projector_2d", "scorer", "vision2d", "language_model"),
}


@dataclass(frozen=True, kw_only=True)
class TrainingStage:
    """One training stage on one volume: weights, gradients and AdamW's two moments, and everything else at its peak."""

    name: str
    trained: int
    state_bytes: int
    activation_bytes: int
    flops: int

    @property
    def peak_bytes(self) -> int:
        """All of it together."""
        return RUNTIME_BYTES + self.state_bytes + self.activation_bytes


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What answering takes: parameters per part, bytes of weights, the stages in order."""

    parameters: dict[str, int]
    dtype: str
    weight_bytes: int
    num_visual_tokens: int
    length: int
    num_questions: int
    cache_bytes: int
    stages: tuple[WorkStage, ...]

    @property
    def peak_bytes(self) -> int:
        """The most memory at any moment: runtime, weights, what earlier stages left, and the largest stage."""
        left = peak = 0
        for stage in self.stages:
            peak = max(peak, left + stage.peak_bytes)
            left += stage.kept_bytes
        return RUNTIME_BYTES + self.weight_bytes + peak


def read_config(name_or_path: str | Path) -> Med2E3Config:
    """A model folder, its config.json, or the name of a shipped or pulled model or of a known configuration.

    Raises:
        ModelError: neither a known name nor a readable configuration.
    """
    path = find_folder(name_or_path)
    if not path.exists():
        if hint := how_to_get(str(name_or_path)):
            raise ModelError(hint)
        return make_preset(str(name_or_path))
    folder = path if path.is_dir() else path.parent
    read_json_object(folder / "config.json", error=ModelError)
    with one_line_for_damage(folder):
        return Med2E3Config.from_pretrained(folder)


def plan(config: Med2E3Config, *, dtype: str = "bfloat16", num_questions: int = 1, length: int = 768) -> Plan:
    """Plan answering num_questions about one volume, each sequence `length` tokens long with its visual tokens.

    Raises:
        ModelError: the parts do not fit one another, or no text fits beside the visual tokens.
    """
    with fake_model(config, dtype=dtype, length=length) as model:
        inputs = fake_inputs(config, num_questions=num_questions, length=length)
        steps, made = answering_steps(model, inputs)
        counter = AllocationCounter([*model.parameters(), *model.buffers(), inputs[0], inputs[1]])
        with torch.no_grad():
            stages = tuple(counter.watch(name, step) for name, step in steps.items())
        return Plan(
            parameters=count_parameters(model),
            dtype=dtype,
            weight_bytes=sum(p.nbytes for p in {id(p): p for p in model.parameters()}.values()),
            num_visual_tokens=model.num_visual_tokens,
            length=length,
            num_questions=num_questions,
            cache_bytes=sum(layer.keys.nbytes + layer.values.nbytes for layer in made["cache"].layers),
            stages=stages,
        )


def answering_steps(
    model: Med2E3ForConditionalGeneration, inputs: tuple[Tensor, Tensor, Callable[[Tensor], Question]]
) -> tuple[dict[str, Callable[[], None]], dict[str, Any]]:
    """Answering cut into its stages, each using what the ones before it left in the second dict: to be run in order."""
    volumes, input_ids, question = inputs
    made: dict[str, Any] = {"tokens_3d": None, "tokens_2d": None}

    def encode_3d() -> None:
        assert model.vision3d is not None
        assert model.projector_3d is not None
        made["tokens_3d"] = model.projector_3d(model.vision3d(volumes))

    def encode_2d() -> None:
        assert model.projector_2d is not None
        features_VNLC = model.encode_2d(volumes)
        made["tokens_2d"] = model.projector_2d(features_VNLC.flatten(0, 1)).unflatten(0, features_VNLC.shape[:2])

    def score() -> None:
        features = VolumeFeatures(tokens_3d_VKPD=made["tokens_3d"], tokens_2d_VNLD=made["tokens_2d"])
        made["embeds"] = with_visual_tokens(model, features, input_ids, question)

    def prefill() -> None:
        made["cache"] = model.language_model(
            inputs_embeds=made.pop("embeds"), use_cache=True, logits_to_keep=1
        ).past_key_values

    def decode() -> None:
        model.language_model(input_ids=input_ids[:, :1], past_key_values=made["cache"], use_cache=True)

    steps: dict[str, Callable[[], None]] = {}
    if model.vision3d is not None:
        steps["encode volume"] = encode_3d
    if model.vision2d is not None:
        steps["encode slices"] = encode_2d
    return {**steps, "score": score, "prefill": prefill, "decode a token": decode}, made


def with_visual_tokens(
    model: Med2E3ForConditionalGeneration,
    features: VolumeFeatures,
    input_ids: Tensor,
    question: Callable[[Tensor], Question],
) -> Tensor:
    """The prompts' embeddings (B, T, D), whose first S places the visual tokens take."""
    embeds = model.embed_tokens(input_ids)
    index = torch.zeros(len(input_ids), 1, dtype=torch.long)
    visual_BMSD, _ = model.compose_visual_tokens(features, index, question(embeds))
    is_visual = torch.arange(input_ids.shape[1]).expand_as(input_ids) < model.num_visual_tokens
    return place_visual_tokens(embeds, is_visual, visual_BMSD.flatten(1, 2))


def plan_training(
    config: Med2E3Config,
    stage: str,
    *,
    dtype: str = "bfloat16",
    num_questions: int = 1,
    length: int = 768,
    checkpointing: bool = False,
) -> TrainingStage:
    """Plan one optimiser step of the paper's stage 1 or 2 on one volume with num_questions prompts."""
    if stage not in TRAINED_PARTS:
        raise ModelError(f"stage is {stage!r}; expected one of {', '.join(TRAINED_PARTS)}.")
    with fake_model(config, dtype=dtype, length=length) as model:
        model.requires_grad_(False)
        for name in TRAINED_PARTS[stage]:
            if name in model.parts:
                model.parts[name].requires_grad_(True)
        if checkpointing:
            model.activation_checkpointing_enable()
        model.train()
        volumes, input_ids, question = fake_inputs(config, num_questions=num_questions, length=length)
        num_supervised = length - model.num_visual_tokens  # at most: training asks for logits where there are labels
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        gradients = sum(p.nbytes for p in model.parameters() if p.requires_grad)

        def step() -> None:
            features = model.encode_volumes(volumes)
            embeds = with_visual_tokens(model, features, input_ids, question)
            logits = model.language_model(inputs_embeds=embeds, use_cache=False, logits_to_keep=num_supervised).logits
            labels = input_ids[:, -num_supervised:]
            torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten()).backward()

        counter = AllocationCounter([*model.parameters(), *model.buffers(), volumes, input_ids])
        watched = counter.watch(stage, step, twice=checkpointing)
        weights = sum(p.nbytes for p in model.parameters())
        return TrainingStage(
            name=stage,
            trained=trained,
            state_bytes=weights + 3 * gradients,  # weights, gradients, two moments
            activation_bytes=watched.peak_bytes - min(gradients, watched.kept_bytes),
            flops=watched.flops,
        )


@contextmanager
def fake_model(config: Med2E3Config, *, dtype: str, length: int) -> Iterator[Med2E3ForConditionalGeneration]:
    """The model on fake tensors, in evaluation mode."""
    if dtype not in DTYPES:
        raise ModelError(f"dtype is {dtype!r}; expected one of {', '.join(DTYPES)}.")
    num_visual_tokens = count_visual_tokens(config)
    if length <= num_visual_tokens:
        raise ModelError(f"length {length} leaves no room beside {num_visual_tokens} visual tokens; raise --length.")
    with FakeTensorMode():
        yield build_model(config, dtype=dtype)


def build_model(config: Med2E3Config, *, dtype: str) -> Med2E3ForConditionalGeneration:
    """The model in evaluation mode, its weights whatever lay in memory."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(DTYPES[dtype])
    try:
        with init.no_init_weights():
            model = Med2E3ForConditionalGeneration(config)
            model.train(False)
            return model
    finally:
        torch.set_default_dtype(before)


def fake_inputs(
    config: Med2E3Config, *, num_questions: int, length: int
) -> tuple[Tensor, Tensor, Callable[[Tensor], Question]]:
    """One volume, prompts of `length` tokens, and the question made from their embeddings."""
    volumes = torch.zeros(1, 1, *config.image_size)
    input_ids = torch.zeros(num_questions, length, dtype=torch.long)
    mask = torch.zeros(num_questions, length, dtype=torch.bool)

    def ask(embeds: Tensor) -> Question:
        return Question(input_ids=input_ids, mask=mask, embeds=embeds, encoder_ids=input_ids[:, :64], encoder_mask=None)

    return volumes, input_ids, ask


def count_parameters(model: Med2E3ForConditionalGeneration) -> dict[str, int]:
    """Numbers per part; the text encoder is not counted in the scorer again."""
    parts = model.parts
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    if "scorer" in counts:
        counts["scorer"] -= counts.get("text_encoder", 0)
    return counts


def describe_plan(found: Plan, *, free_bytes: int, device: str, seconds: Mapping[str, float] | None = None) -> str:
    """The plan as a table for the terminal; with seconds by stage (timing.py), they stand beside the work."""
    text_length = found.length - found.num_visual_tokens
    questions = f"{found.num_questions} question{'s' * (found.num_questions != 1)}"
    header = f"{found.dtype} on {device}: 1 volume, {questions}, {found.length} tokens each "
    header += f"({found.num_visual_tokens} visual, {text_length} of text)"
    lines = [
        header,
        "",
        f"{'part':18}{'parameters':>16}",
        *(f"{name:18}{number:>16,}" for name, number in found.parameters.items()),
        f"{'together':18}{sum(found.parameters.values()):>16,}   weights {found.weight_bytes / GIB:.2f} GiB",
        "",
        f"{'stage':18}{'at most':>12}{'kept':>12}{'work':>14}" + ("" if seconds is None else f"{'time':>12}"),
    ]
    for stage in found.stages:
        line = f"{stage.name:18}{stage.peak_bytes / GIB:>8.3f} GiB{stage.kept_bytes / GIB:>8.3f} GiB"
        line += f"{stage.flops / 1e12:>7.3f} TFLOP"
        if seconds is not None:
            line += f"{seconds[stage.name]:>10.2f} s"
        lines.append(line)
    verdict = "fits" if found.peak_bytes <= free_bytes else "DOES NOT FIT"
    at_once = questions_at_once(
        free_bytes - RUNTIME_BYTES - found.weight_bytes,
        bytes_per_question=found.cache_bytes // found.num_questions,
        working_bytes=max(stage.peak_bytes for stage in found.stages),
        at_most=10_000,
    )
    lines += [
        "",
        f"cache of keys and values {found.cache_bytes / GIB:.2f} GiB",
        f"needs {found.peak_bytes / GIB:.2f} GiB at its peak, {free_bytes / GIB:.2f} GiB free on {device}: {verdict}",
        f"questions of this length that fit at once: {at_once:,}",
    ]
    return "\n".join(lines)


def describe_training(found: TrainingStage) -> str:
    """One line on a training stage."""
    return (
        f"{found.name}: trains {found.trained:,}; weights, gradients and moments {found.state_bytes / GIB:.2f} GiB, "
        f"activations {found.activation_bytes / GIB:.2f} GiB, {found.peak_bytes / GIB:.2f} GiB at its peak, "
        f"{found.flops / 1e12:.2f} TFLOP a step"
    )
