"""Given a scan and questions, what does the model answer, and from which slices?

The only inference path: the command line, the evaluation and the server all come through `Predictor`. A scan is put on
the model's grid and encoded once; what its prompts have in common passes the language model once; the questions are
answered together (`engine.py`), each as if it were alone. V = 1 volume, B questions in a batch, N slices.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from slicesight.errors import InputError, ModelError
from slicesight.inference.answers import NO_WORDS, Answer, AnswerPiece, SliceEvidence, rank_slices
from slicesight.inference.batching import BatchedAsking, Progress
from slicesight.inference.encoded_scan import EncodedScan, Scan
from slicesight.models.card import CARD_FILE, ModelCard, read_card
from slicesight.models.shipped import find_folder, shipped_models
from slicesight.volumes.grid import GridSpec, GridVolume, to_grid
from slicesight.volumes.volume import Plane, Volume

if TYPE_CHECKING:
    import torch

    from slicesight.inference.feature_cache import FeatureCache
    from slicesight.inference.scheduler import Scheduler
    from slicesight.models.med2e3 import Med2E3ForConditionalGeneration, Med2E3Processor

__all__ = [
    "NO_WORDS",
    "Answer",
    "AnswerPiece",
    "EncodedScan",
    "Predictor",
    "Progress",
    "SliceEvidence",
    "load",
    "rank_slices",
    "shipped_models",
]


class Predictor:
    """A model with its processor and card, ready to be asked.

    Args:
        model: moved to `device`, in evaluation mode.
        processor: holds the grid settings the model was trained with.
        card: what the model is made from.
        cache: keeps what the encoders made of a scan; None keeps nothing beyond `EncodedScan`.
        engine: how questions are answered together; None takes the usual settings.
    """

    def __init__(
        self,
        *,
        model: Med2E3ForConditionalGeneration,
        processor: Med2E3Processor,
        card: ModelCard,
        device: str | torch.device = "cpu",
        cache: FeatureCache | None = None,
        engine: Scheduler | None = None,
    ) -> None:
        num_slices, height, width = model.config.image_size
        settings = {"num_slices": num_slices, "height": height, "width": width, **(processor.grid or {})}
        self.grid_spec = GridSpec.from_dict(settings)
        if (self.grid_spec.num_slices, self.grid_spec.height, self.grid_spec.width) != (num_slices, height, width):
            raise ModelError(
                f"{card.name}: the processor's grid is {settings} but the model reads {num_slices}×{height}×{width}; "
                "save the processor that belongs to the model."
            )
        planes = model.config.planes if model.config.needs_2d else None
        self.planes = cast("tuple[Plane, ...]", tuple(planes or ()))
        if self.planes and self.grid_spec.plane == "acquired":
            self.grid_spec = replace(self.grid_spec, plane="axial")
        if self.planes and self.grid_spec.plane != "axial":
            raise ModelError(
                f"{card.name}: the processor stacks {self.grid_spec.plane} slices but the model cuts "
                f"{', '.join(self.planes)} ones from an axial stack; set plane: axial in the processor's grid."
            )
        model.to(device)  # type: ignore[arg-type]  # the library's wrapper hides the parameter's type
        self.model = model
        self.model.train(False)
        self.processor = processor
        self.card = card
        self.cache = cache
        self._engine = engine

    @property
    def engine(self) -> Scheduler:
        """What answers questions together; made on first use."""
        if self._engine is None:
            from slicesight.inference.scheduler import Scheduler

            self._engine = Scheduler(self.model)
        return self._engine

    def grid(self, volume: Volume, *, window: str | None = None, plane: str | None = None) -> GridVolume:
        """The scan as the model sees it, with another window or plane than the model's own on wish.

        Raises:
            InputError: another plane for a model that cuts several planes itself.
        """
        return self.as_scored(to_grid(volume, self.grid_spec_with(window=window, plane=plane)))

    def grid_spec_with(self, *, window: str | None = None, plane: str | None = None) -> GridSpec:
        """What the model wants to be fed, with another window or plane on wish.

        Raises:
            InputError: another plane for a model that cuts several planes itself.
        """
        if self.planes and plane not in (None, "axial"):
            raise InputError(self._cuts_itself(plane))
        return replace(self.grid_spec, window=window or self.grid_spec.window, plane=plane or self.grid_spec.plane)

    def encode(self, scan: Volume | GridVolume) -> EncodedScan:
        """Run both encoders once, for as many questions as will be asked.

        Raises:
            InputError: the grid has several windows, one channel each, and the model reads one channel; or it is not
                stacked axially and the model cuts several planes from it.
        """
        from slicesight.inference.encoding import encode_grid

        grid = self.grid(scan) if isinstance(scan, Volume) else self.as_scored(scan)
        if grid.channels is not None:
            raise InputError(
                f"window {grid.spec.window!r} gives {len(grid.channels)} channels but {self.card.name} reads one; "
                "name a single window."
            )
        if self.cache is None:
            return EncodedScan(grid=grid, features=encode_grid(self.engine, grid))
        features = self.cache.get(self.model, grid, lambda: encode_grid(self.engine, grid))
        return EncodedScan(grid=grid, features=features)

    def ask(
        self,
        scan: Scan,
        questions: str | Sequence[str] | None = None,
        *,
        history: Sequence[tuple[str, str]] = (),
        max_new_tokens: int = 160,
        batch_size: int = 16,
        progress: Progress | None = None,
        **generate_options: Any,
    ) -> list[Answer]:
        """Answer each question about the scan; the same input gives the same answers.

        Args:
            questions: left out, the model describes the findings. A closed question carries its choices:
                "Which phase is this? Choices: A. arterial phase B. venous phase".
            history: earlier (question, answer) turns of the conversation, the same for every question.
            batch_size: most questions answered together; fewer where memory is short.
            progress: called with (done, total) at the start and whenever answers are done.
            generate_options: do_sample, temperature, top_k, top_p and seed for answers that are drawn; anything else
                (num_beams, say) is passed on to `generate`, which is slower.

        Raises:
            InputError: no question, an empty one, or one that is too long for the model or for memory.
        """
        (answers,) = self.ask_many(
            [(scan, questions)],
            history=history,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            progress=progress,
            **generate_options,
        )
        return answers

    def ask_many(
        self,
        jobs: Iterable[tuple[Scan, str | Sequence[str] | None]],
        *,
        history: Sequence[tuple[str, str]] = (),
        max_new_tokens: int = 160,
        batch_size: int = 16,
        progress: Progress | None = None,
        **generate_options: Any,
    ) -> Iterator[list[Answer]]:
        """Answer the questions of many scans, in the order of the jobs; arguments as for `ask`.

        A scan is encoded when there is room for its first question, and its questions are answered beside the last ones
        of the scan before: `jobs` may be a generator that reads scans one by one.
        """
        asking = self._asking(max_new_tokens, batch_size, generate_options)
        checked = ((scan, self._checked(questions)) for scan, questions in jobs)
        return asking.answers(checked, history=history, progress=progress)

    def ask_stream(
        self,
        scan: Scan,
        questions: str | Sequence[str] | None = None,
        *,
        history: Sequence[tuple[str, str]] = (),
        max_new_tokens: int = 160,
        batch_size: int = 16,
        **generate_options: Any,
    ) -> Iterator[AnswerPiece]:
        """The same answers as `ask`, in pieces as they are said; pieces of several questions come mixed."""
        asking = self._asking(max_new_tokens, batch_size, generate_options)
        job = (scan, self._checked(questions))
        steps = asking.pieces(iter([job]), history=history, in_pieces=True)
        return (piece for step in steps for _, piece in step)

    def decode(self, token_ids: Sequence[int]) -> str:
        """What these tokens of an answer say, special ones left out."""
        import torch

        tokens_1T = torch.tensor([list(token_ids)], dtype=torch.long)
        (text,) = self.processor.decode_answers(tokens_1T, num_prompt_tokens=0)
        return text

    def as_scored(self, grid: GridVolume) -> GridVolume:
        """The grid with the planes this model scores, which its receipt then names too.

        Raises:
            InputError: the grid is not stacked axially and the model cuts several planes from it.
        """
        if grid.planes == self.planes:
            return grid
        if self.planes and grid.plane != "axial":
            raise InputError(self._cuts_itself(grid.plane))
        stated = {name: fact for name, fact in grid.receipt["grid"].items() if name != "planes"}
        if self.planes:
            stated["planes"] = list(self.planes)
        return replace(grid, planes=self.planes, receipt={**grid.receipt, "grid": stated})

    def _cuts_itself(self, found: str | None) -> str:
        return (
            f"{self.card.name} cuts {', '.join(self.planes)} slices from an axial stack itself, but plane {found} is "
            "asked for; leave the plane out."
        )

    def _asking(self, max_new_tokens: int, batch_size: int, options: dict[str, Any]) -> BatchedAsking:
        for name, value in (("max_new_tokens", max_new_tokens), ("batch_size", batch_size)):
            if value < 1:
                raise InputError(f"{name} is {value}; expected at least 1.")
        return BatchedAsking(reader=self, max_new_tokens=max_new_tokens, batch_size=batch_size, options=options)

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


def load(
    name_or_dir: str | Path = "phantom-tiny",
    *,
    device: str | None = None,
    dtype: str | None = None,
    quantize: str | None = None,
    compile_mode: str | None = None,
    cache_bytes: int = 0,
    cache_folder: str | Path | None = None,
) -> Predictor:
    """Load a model by the name of a shipped one, by its folder, or by its name on the Hugging Face hub.

    Args:
        device: "cpu", "cuda", ...; left out, a GPU if there is one.
        dtype: "float32", "bfloat16", "auto" (as stored), "fastest" (on a CPU what it multiplies faster, float32 or
            bfloat16, measured); left out, float32 on the CPU and as stored elsewhere.
        quantize: "int8" rounds weights and activations of the language model and the 2D encoder to 8 bits (CPU only).
        compile_mode: of PyTorch's compiler for both encoders, whose shapes stay the same: "default", "reduce-overhead"
            (CUDA graphs) or "max-autotune". For many scans on a GPU: the first one takes minutes.
        cache_bytes: of encoded scans kept in memory, the ones used last; 0 keeps none.
        cache_folder: keeps encoded scans as files there, for other runs. They show what the scan shows: treat them so.

    Raises:
        ModelError: there is no such model, or its folder is incomplete.
    """
    source, name = _find(name_or_dir)

    import torch
    from transformers.utils.hub import cached_file

    from slicesight.inference.cpu.processor import count_cores, fastest_dtype
    from slicesight.inference.cpu.transposed_linear import use_transposed_linear
    from slicesight.inference.cpu.upcast_linear import upcast_is_faster, use_upcast_linear
    from slicesight.inference.feature_cache import FeatureCache
    from slicesight.models.med2e3 import Med2E3ForConditionalGeneration, Med2E3Processor

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(min(torch.get_num_threads(), count_cores()))  # a container has fewer than the machine
    if dtype == "fastest":
        dtype = fastest_dtype() if device == "cpu" else "auto"
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
    if quantize is not None:
        from slicesight.inference.cpu.int8 import quantize_model

        quantize_model(model, word=quantize, device=device)
    if compile_mode is not None:
        if quantize is not None:
            raise ModelError("compile_mode and quantize do not go together; leave one of them out.")
        from slicesight.inference.compiling import compile_encoders

        compile_encoders(model, mode=compile_mode)
    if device == "cpu":
        use_transposed_linear(model.language_model)
        if upcast_is_faster(model.dtype):
            use_upcast_linear(model)
    cache = None
    if cache_bytes or cache_folder is not None:
        cache = FeatureCache(memory_bytes=cache_bytes, folder=None if cache_folder is None else Path(cache_folder))
    return Predictor(
        model=model,
        processor=processor,
        card=read_card(Path(card_path) if card_path else None, name=name),
        device=device,
        cache=cache,
    )


def _find(name_or_dir: str | Path) -> tuple[str, str]:
    """(what from_pretrained takes, the model's name)."""
    name = str(name_or_dir)
    if name in shipped_models():
        return str(find_folder(name)), name
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
