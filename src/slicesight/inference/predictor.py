"""Given a scan and questions, what does the model answer, and from which slices?

The only inference path: the command line, the evaluation and the server all come through `Predictor`. A scan is put on
the model's grid and encoded once; what its prompts have in common passes the language model once; the questions are
answered together (`scheduler.py`), each as if it were alone. V = 1 volume, B questions in a batch, N slices.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from slicesight.errors import InputError, ModelError
from slicesight.inference.answers import Answer, AnswerPiece, Progress
from slicesight.inference.encoded_scan import EncodedScan, Scan
from slicesight.models.card import ModelCard
from slicesight.volumes.grid import GridSpec, GridVolume, to_grid
from slicesight.volumes.volume import Plane, Volume

if TYPE_CHECKING:
    import torch

    from slicesight.inference.batching import ContinuousBatching
    from slicesight.inference.calibration.calibration import AnswerRule, Calibration
    from slicesight.inference.choice_decoding import ChoicesMode
    from slicesight.inference.embedding import Embedding, EmbeddingSpace
    from slicesight.inference.feature_cache import FeatureCache
    from slicesight.inference.jobs import Job
    from slicesight.inference.prompts import History, TokenizedQuestion
    from slicesight.inference.sampling import Sampler
    from slicesight.inference.scheduler import Scheduler
    from slicesight.models.med2e3 import Med2E3ForConditionalGeneration, Med2E3Processor, VolumeFeatures


class Predictor:
    """A model with its processor and card, ready to be asked.

    Args:
        model: moved to `device`, in evaluation mode.
        processor: holds the grid settings the model was trained with.
        card: what the model is made from.
        cache: keeps what the encoders made of a scan; None keeps nothing beyond `EncodedScan`.
        scheduler: how questions are answered together; None takes the usual settings.
        calibration: how sure the model may be of its answers; None gives them without a confidence.
    """

    calibration: Calibration | None = None
    follows_system = False
    """Whether the model may have learnt to do what a system message says."""

    def __init__(
        self,
        *,
        model: Med2E3ForConditionalGeneration,
        processor: Med2E3Processor,
        card: ModelCard,
        device: str | torch.device = "cpu",
        cache: FeatureCache | None = None,
        scheduler: Scheduler | None = None,
        calibration: Calibration | None = None,
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
        self.calibration = calibration
        self._scheduler = scheduler

    @property
    def scheduler(self) -> Scheduler:
        """What answers questions together; made on first use."""
        if self._scheduler is None:
            from slicesight.inference.scheduler import Scheduler

            self._scheduler = Scheduler(self.model)
        return self._scheduler

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

    def encode(self, scan: Scan) -> EncodedScan:
        """Run both encoders once, for as many questions as will be asked; an encoded scan is given back as it is.

        Raises:
            InputError: the scan cannot be read; the grid has several windows, one channel each, and the model reads one
                channel; or it is not stacked axially and the model cuts several planes from it.
        """
        if isinstance(scan, EncodedScan):
            return scan
        grid = self.as_grid(scan)
        if self.cache is None:
            return EncodedScan(grid=grid, features=self._run_encoders(grid))
        return EncodedScan(grid=grid, features=self.cache.get(self.model, grid, lambda: self._run_encoders(grid)))

    def as_grid(self, scan: Scan) -> GridVolume:
        """The scan as the encoders will see it; errors as of `encode`."""
        if isinstance(scan, EncodedScan):
            return scan.grid
        if isinstance(scan, (str, Path, np.ndarray)):
            from slicesight.io.loading import read_scan

            scan = read_scan(scan)
        grid = self.grid(scan) if isinstance(scan, Volume) else self.as_scored(scan)
        if grid.channels is not None:
            raise InputError(
                f"window {grid.spec.window!r} gives {len(grid.channels)} channels but {self.card.name} reads one; "
                "name a single window."
            )
        return grid

    def embed(self, scan: Scan, *, space: EmbeddingSpace = "encoder") -> Embedding:
        """Vectors of the scan, its slices and its depth bins, with the receipt; no question is asked.

        Args:
            space: "encoder" takes what the encoders give; "language" what the language model is shown of it, where
                slices and depth bins lie in one space.

        Raises:
            InputError: as of `encode`; another space.
        """
        from slicesight.inference.embedding import embed_scan

        return embed_scan(self, scan, space=space)

    def ask(
        self,
        scan: Scan | None,
        questions: str | Sequence[str] | None = None,
        *,
        history: Sequence[tuple[str, str]] = (),
        system: str | None = None,
        prefix: str = "",
        max_new_tokens: int = 160,
        batch_size: int = 16,
        choices: ChoicesMode = "free",
        min_confidence: float | None = None,
        answer_anyway: bool = False,
        progress: Progress | None = None,
        **generate_options: Any,
    ) -> list[Answer]:
        """Answer each question about the scan; the same input gives the same answers.

        Args:
            scan: read, on the grid or encoded already, or a path; None asks the questions alone, without any scan.
            questions: left out, the model describes the findings. A closed question carries its choices:
                "Which phase is this? Choices: A. arterial phase B. venous phase".
            history: earlier (question, answer) turns of the conversation, the same for every question.
            system: a message before the conversation, as the model's chat template has it. prefix: how every answer
                begins, for the model to go on with.
            batch_size: most questions answered together; fewer where memory is short.
            choices: "only" holds a closed question to its choices, whatever the model would rather say; "both" leaves
                the text free and gives the choice beside it, as `Answer.choice`.
            min_confidence: a calibrated model holds back answers of which it is less sure, from 0 to 1; None takes the
                calibration's own limit.
            answer_anyway: nothing is held back; `Answer.abstained` says what would have been.
            progress: called with (done, total) at the start and whenever answers are done.
            generate_options: do_sample, temperature, top_k, top_p and seed for answers that are drawn; anything else
                (num_beams, say) is passed on to `generate`, which is slower.

        Raises:
            InputError: no question, an empty one, or one that is too long for the model or for memory; an argument of
                the wrong kind.
        """
        (answers,) = self.ask_many(
            [(scan, questions)],
            history=history,
            system=system,
            prefix=prefix,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            choices=choices,
            min_confidence=min_confidence,
            answer_anyway=answer_anyway,
            progress=progress,
            **generate_options,
        )
        return answers

    def ask_many(
        self,
        jobs: Iterable[Job],
        *,
        history: Sequence[tuple[str, str]] = (),
        system: str | None = None,
        prefix: str = "",
        max_new_tokens: int = 160,
        batch_size: int = 16,
        choices: ChoicesMode = "free",
        min_confidence: float | None = None,
        answer_anyway: bool = False,
        progress: Progress | None = None,
        **generate_options: Any,
    ) -> Iterator[list[Answer]]:
        """Answer the questions of many scans, in the order of the jobs; arguments as for `ask`.

        A scan is encoded when there is room for its first question, and its questions are answered beside the last ones
        of the scan before: `jobs` may be a generator that reads scans one by one.
        """
        from slicesight.inference.jobs import JobRunner

        runner = JobRunner(
            predictor=self,
            history=history,
            system=system,
            prefix=prefix,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            options=generate_options,
            choices=choices,
            rule=self.answer_rule(min_confidence, answer_anyway),
        )
        return runner.answers(jobs, progress=progress)

    def ask_stream(
        self,
        scan: Scan | None,
        questions: str | Sequence[str] | None = None,
        *,
        history: Sequence[tuple[str, str]] = (),
        system: str | None = None,
        prefix: str = "",
        max_new_tokens: int = 160,
        batch_size: int = 16,
        choices: Literal["free", "only"] = "free",
        min_confidence: float | None = None,
        answer_anyway: bool = False,
        **generate_options: Any,
    ) -> Iterator[AnswerPiece]:
        """The same answers as `ask`, in pieces as they are generated; pieces of several questions come mixed.

        An answer that may yet be held back comes in one piece, when it is whole.
        """
        from slicesight.inference.choice_decoding import check_choices_mode
        from slicesight.inference.jobs import JobRunner

        check_choices_mode(choices, allowed=("free", "only"))
        runner = JobRunner(
            predictor=self,
            history=history,
            system=system,
            prefix=prefix,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            options=generate_options,
            choices=choices,
            rule=self.answer_rule(min_confidence, answer_anyway),
        )
        return (piece for step in runner.pieces([(scan, questions)], in_pieces=True) for _, piece in step)

    def batching(self, *, batch_size: int = 16) -> ContinuousBatching:
        """What answers the requests of many callers together."""
        from slicesight.inference.batching import ContinuousBatching

        return ContinuousBatching(self, batch_size=batch_size)

    def as_control(self, grid: GridVolume) -> Scan:
        """A scan whose answers alone are wanted, without evidence where that is measured."""
        return grid

    def check_options(self, options: dict[str, Any]) -> None:
        """Raises InputError for an option of asking that the model does not have."""
        from slicesight.inference.sampling import check_options

        check_options(self.model, options)

    def make_sampler(self, options: dict[str, Any]) -> Sampler | None:
        """How next tokens are chosen with these options; None where only `generate` can."""
        from slicesight.inference.sampling import make_sampler

        return make_sampler(self.model, options)

    @property
    def longest_text(self) -> int | None:
        """Tokens of the longest prompt with its answer; None where that is not known."""
        from slicesight.inference.prompts import longest_text

        return longest_text(self.model.config)

    def tokenize(
        self,
        processor: Med2E3Processor,
        questions: Sequence[str],
        *,
        history: History,
        num_volumes: int,
        system: str | None = None,
        prefix: str = "",
    ) -> list[TokenizedQuestion] | None:
        """The questions' prompts by this copy of the processor; None where the model makes its own."""
        from slicesight.inference.prompts import tokenize_questions

        return tokenize_questions(
            processor,
            questions,
            history=history,
            num_volumes=num_volumes,
            longest=self.longest_text,
            system=system,
            prefix=prefix,
        )

    def digest(self) -> str:
        """SHA-256 of weights, configuration and the processor's settings, wherever they were loaded from."""
        from slicesight.models.fingerprint import digest_weights, plain

        settings = [plain(self.model.config), self.processor.to_dict()]
        return digest_weights(self.model.state_dict(), settings=settings)

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

    def _run_encoders(self, grid: GridVolume) -> VolumeFeatures:
        """Both encoders' tokens of one volume; the 2D encoder gets as many slices at once as suit the machine."""
        import torch

        with torch.inference_mode():
            return self.model.encode_volumes(self.model_input(grid))

    def model_input(self, grid: GridVolume) -> torch.Tensor:
        """The grid as the encoders take it, (1, 1, N, H, W), the 2D encoder set to as many slices at once as suit."""
        import torch

        from slicesight.models.med2e3.vision2d import measure_slice_tokens

        model = self.model
        if model.vision2d is not None:
            num_tokens = measure_slice_tokens(model.config)[0] * model.config.slice_pool**2
            model.vision2d.slices_at_once = max(1, self.scheduler.block_tokens // num_tokens)
        return torch.from_numpy(grid.voxels)[None, None].to(model.device, model.dtype)

    def answer_rule(self, min_confidence: float | None, answer_anyway: bool) -> AnswerRule:
        """When an answer is held back.

        Raises:
            InputError: no number from 0 to 1, or a confidence is asked for that a model without a calibration has not.
        """
        from slicesight.inference.calibration.calibration import AnswerRule

        rule = AnswerRule(min_confidence=min_confidence, answer_anyway=answer_anyway)
        if min_confidence and self.calibration is None:
            raise InputError(
                f"{self.card.name} has no calibration, so its answers have no confidence that min_confidence "
                f"{min_confidence:g} could be compared with; calibrate it (slicesight calibrate), or leave it out."
            )
        return rule

    def __getstate__(self) -> dict[str, Any]:
        """All but the scheduler, which is made anew where the predictor is unpickled.

        Raises:
            ModelError: the model is rounded to 8 bits; its packed weights belong to this process.
        """
        if any(type(module).__name__ == "Int8Linear" for module in self.model.modules()):
            raise ModelError(
                f'{self.card.name}: an 8-bit model cannot be pickled; load it in the other process: quantize="int8".'
            )
        return {**vars(self), "_scheduler": None}
