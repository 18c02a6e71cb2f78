"""Given a scan and questions, what does the model answer, and from which slices?

The only inference path: the command line, the evaluation and the server all come through `Reader`. A scan is put on the
model's grid and encoded once; every question is a suffix to it. V = 1 volume, B questions in a batch, N slices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slicesight.choices import with_letter
from slicesight.errors import InputError, ModelError
from slicesight.model_card import CARD_FILE, ModelCard, read_card
from slicesight.volumes.grid import GridSlice, GridSpec, GridVolume, to_grid
from slicesight.volumes.volume import Volume

if TYPE_CHECKING:
    import torch

    from slicesight.model import Med2E3ForConditionalGeneration, Med2E3Processor, VolumeFeatures

SHIPPED_FOLDER = Path(__file__).parent / "weights"
NO_WORDS = "(the model gave no words)"
Progress = Callable[[int, int], None]
"""Called with (answers done, answers asked for)."""


@dataclass(frozen=True, kw_only=True)
class SliceEvidence:
    """One slice of the model's grid and how much the answer rests on it.

    rank: 1 is the heaviest. source_slices: 0-based on the file's third stored axis (DICOM: geometric order).
    position_mm: (x, y, z) LPS of the slice's centre; None where the file holds no geometry.
    """

    rank: int
    grid_slice: int
    score: float
    source_slices: tuple[int, ...]
    position_mm: tuple[float, float, float] | None
    sop_instance_uids: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A text and the slices it rests on.

    scores: one per grid slice, in grid order, summing to 1; empty for a model that does not weigh slices.
    slices: all of them, heaviest first.
    """

    question: str
    text: str
    scores: tuple[float, ...]
    slices: tuple[SliceEvidence, ...]


@dataclass(frozen=True, kw_only=True)
class EncodedScan:
    """A scan after the expensive part: its grid and what the encoders made of it. Ask it as often as you like."""

    grid: GridVolume
    features: VolumeFeatures


class Reader:
    """A model with its processor and card, ready to be asked.

    Args:
        model: moved to `device`, in evaluation mode.
        processor: holds the grid settings the model was trained with.
        card: what the model is made from.
    """

    def __init__(
        self,
        *,
        model: Med2E3ForConditionalGeneration,
        processor: Med2E3Processor,
        card: ModelCard,
        device: str | torch.device = "cpu",
    ) -> None:
        num_slices, height, width = model.config.image_size
        settings = {"num_slices": num_slices, "height": height, "width": width, **(processor.grid or {})}
        self.grid_spec = GridSpec.from_dict(settings)
        if (self.grid_spec.num_slices, self.grid_spec.height, self.grid_spec.width) != (num_slices, height, width):
            raise ModelError(
                f"{card.name}: the processor's grid is {settings} but the model reads {num_slices}×{height}×{width}; "
                "save the processor that belongs to the model."
            )
        if model.config.planes is not None:
            raise ModelError(
                f"{card.name} weighs slices of several planes, which cannot be shown yet; "
                "use its generate and score_slices in Python (benchmarks/planes.py does)."
            )
        model.to(device)  # type: ignore[arg-type]  # the library's wrapper hides the parameter's type
        self.model = model
        self.model.train(False)
        self.processor = processor
        self.card = card

    def grid(self, volume: Volume, *, window: str | None = None, plane: str | None = None) -> GridVolume:
        """The scan as the model sees it, with another window or plane than the model's own on wish."""
        spec = replace(self.grid_spec, window=window or self.grid_spec.window, plane=plane or self.grid_spec.plane)
        return to_grid(volume, spec)

    def encode(self, scan: Volume | GridVolume) -> EncodedScan:
        """Run both encoders once, for as many questions as will be asked.

        Raises:
            InputError: the grid has several windows, one channel each, and the model reads one channel.
        """
        import torch

        grid = self.grid(scan) if isinstance(scan, Volume) else scan
        if grid.channels is not None:
            raise InputError(
                f"window {grid.spec.window!r} gives {len(grid.channels)} channels but {self.card.name} reads one; "
                "name a single window."
            )
        volumes_V1NHW = torch.from_numpy(grid.voxels)[None, None].to(self.model.device, self.model.dtype)
        with torch.inference_mode():
            return EncodedScan(grid=grid, features=self.model.encode_volumes(volumes_V1NHW))

    def ask(
        self,
        scan: Volume | GridVolume | EncodedScan,
        questions: str | Sequence[str] | None = None,
        *,
        max_new_tokens: int = 160,
        batch_size: int = 16,
        progress: Progress | None = None,
        **generate_options: Any,
    ) -> list[Answer]:
        """Answer each question about the scan; the same input gives the same answers.

        Args:
            questions: left out, the model describes the findings. A closed question carries its choices:
                "Which phase is this? Choices: A. arterial phase B. venous phase".
            batch_size: questions answered together.
            progress: called with (done, total) before the first and after every batch.
            generate_options: passed on to `generate`, for instance num_beams or do_sample.

        Raises:
            InputError: no question, or an empty one.
        """
        asked = self._checked(questions)
        encoded = scan if isinstance(scan, EncodedScan) else self.encode(scan)
        answers: list[Answer] = []
        for start in range(0, len(asked), batch_size):
            if progress is not None:
                progress(start, len(asked))
            batch = asked[start : start + batch_size]
            options = {"do_sample": False, "max_new_tokens": max_new_tokens} | generate_options
            answers += self._answer_batch(encoded, batch, options)
        if progress is not None:
            progress(len(asked), len(asked))
        return answers

    def _checked(self, questions: str | Sequence[str] | None) -> list[str]:
        if questions is None:
            return [self.card.caption_question]
        asked = [questions] if isinstance(questions, str) else list(questions)
        if not asked:
            raise InputError("no question was given; pass at least one, or None for a description of the findings.")
        for number, question in enumerate(asked, start=1):
            if not question.strip():
                raise InputError(f"question {number} is empty; write one, or leave it out.")
        return asked

    def _answer_batch(self, encoded: EncodedScan, questions: list[str], options: dict[str, Any]) -> list[Answer]:
        import torch

        inputs = self.processor(questions, volume_index=[0] * len(questions)).to(self.model.device)
        with torch.inference_mode():
            scores_BMN = self.model.score_slices(encoded.features, **inputs)
            generated = self.model.generate(**inputs, volume_features=encoded.features, **options)
        texts = self.processor.decode_answers(generated, num_prompt_tokens=inputs["input_ids"].shape[1])
        rows = [()] * len(questions) if scores_BMN is None else scores_BMN[:, 0].double().cpu().tolist()
        return [
            Answer(
                question=question,
                text=with_letter(question, _printable(text)) or NO_WORDS,
                scores=tuple(scores),
                slices=rank_slices(scores, grid=encoded.grid),
            )
            for question, text, scores in zip(questions, texts, rows, strict=True)
        ]


def rank_slices(scores: Sequence[float], *, grid: GridVolume) -> tuple[SliceEvidence, ...]:
    """Every grid slice with its score and its place in the file, heaviest first; equal ones in grid order."""
    order = sorted(range(len(scores)), key=lambda index: (-scores[index], index))
    return tuple(
        _evidence(grid.slices[index], rank=rank, score=scores[index]) for rank, index in enumerate(order, start=1)
    )


def _evidence(piece: GridSlice, *, rank: int, score: float) -> SliceEvidence:
    return SliceEvidence(
        rank=rank,
        grid_slice=piece.index,
        score=score,
        source_slices=piece.source_slices,
        position_mm=piece.position_mm,
        sop_instance_uids=piece.sop_instance_uids,
    )


def _printable(text: str) -> str:
    """Without control characters, which a terminal would obey and a font cannot draw."""
    return "".join(letter if letter.isprintable() or letter == "\n" else " " for letter in text).strip()


def load(name_or_dir: str | Path = "phantom-tiny", *, device: str | None = None, dtype: str | None = None) -> Reader:
    """Load a model by the name of a shipped one, by its folder, or by its name on the Hugging Face hub.

    Args:
        device: "cpu", "cuda", ...; left out, a GPU if there is one.
        dtype: "float32", "bfloat16", "auto" (as stored); left out, float32 on the CPU and as stored elsewhere.

    Raises:
        ModelError: there is no such model, or its folder is incomplete.
    """
    source, name = _find(name_or_dir)

    import torch
    from transformers.utils.hub import cached_file

    from slicesight.model import Med2E3ForConditionalGeneration, Med2E3Processor

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = dtype or ("float32" if device == "cpu" else "auto")
    try:
        model = Med2E3ForConditionalGeneration.from_pretrained(source, dtype=dtype, use_safetensors=True)
        processor = Med2E3Processor.from_pretrained(source)
        card_path = cached_file(
            source,
            CARD_FILE,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except OSError as error:
        raise ModelError(_why_not_loaded(source, error)) from error
    return Reader(
        model=model,
        processor=processor,
        card=read_card(Path(card_path) if card_path else None, name=name),
        device=device,
    )


def shipped_models() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(path.parent.name for path in SHIPPED_FOLDER.glob("*/config.json"))


def _find(name_or_dir: str | Path) -> tuple[str, str]:
    """(what from_pretrained takes, the model's name)."""
    name = str(name_or_dir)
    if name in shipped_models():
        return str(SHIPPED_FOLDER / name), name
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(f"{folder}: no config.json there; expected a model folder with config and safetensors.")
        return str(folder), folder.resolve().name
    is_hub_name = isinstance(name_or_dir, str) and name.count("/") == 1 and not name.startswith((".", "/", "~"))
    if folder.exists() or not is_hub_name:
        shipped = ", ".join(shipped_models()) or "none"
        raise ModelError(
            f"{name}: no such model; give a shipped one ({shipped}), a model folder, or a hub name owner/model."
        )
    return name, name


def _why_not_loaded(source: str, error: OSError) -> str:
    if Path(source).is_dir():
        first_line = str(error).strip().splitlines()[0]
        return f"{source}: cannot be loaded ({first_line}); the folder needs config, safetensors and tokenizer files."
    return (
        f"{source}: neither a folder here nor reachable on the Hugging Face hub; "
        "check the name, the connection and HF_HUB_OFFLINE, or give a folder."
    )
