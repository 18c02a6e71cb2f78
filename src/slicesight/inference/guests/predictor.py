"""How does a guest answer as the package's own models do, with evidence measured by blanking slices?

The same methods as `Predictor`, so that the command line, the evaluation, the page and the reports need not know who
answers. A guest's questions are answered one after another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from slicesight.data.choices import listed_choices
from slicesight.errors import InputError, ModelError
from slicesight.inference.answers import NO_WORDS, Answer, AnswerDecoder, AnswerPiece, make_answer
from slicesight.inference.choice_decoding import with_choice
from slicesight.inference.encoded_scan import EncodedScan, Scan
from slicesight.inference.guests.guest import Guest, GuestQuestion, Measure, Said
from slicesight.inference.occlusion import LEAST_FALL, Occlusion, occlude
from slicesight.inference.predictor import Predictor
from slicesight.inference.requests import AskRequest, as_exception
from slicesight.models.card import ModelCard
from slicesight.models.guests.pictures import ShownSlices, show
from slicesight.volumes.grid import GridVolume
from slicesight.volumes.volume import Volume

if TYPE_CHECKING:
    from slicesight.models.med2e3 import VolumeFeatures

NO_LIKELIHOOD = "no evidence: this guest does not say how likely its answer is"
NO_SCAN = "no evidence: no scan was shown"
NO_TEXT = "no evidence: the guest said nothing"
TURNED_OFF = "no evidence: it was turned off"
MEASURES: dict[Measure, str] = {
    "log-likelihood": "the fall of the answer's log-likelihood when slices are blanked",
    "first tokens": "the fall of the log-likelihood of the answer's tokens, as far as the server tells it",
    "agreement": "how much of the answer is no longer said when slices are blanked (the server tells no likelihood)",
}
NOT_FOR_GUESTS = "a guest has no calibration"


@dataclass(frozen=True, kw_only=True)
class GuestScan(EncodedScan):
    """A scan as a guest is shown it. wants_evidence: whether its answers are measured."""

    shown: ShownSlices
    wants_evidence: bool = True
    features: VolumeFeatures = field(default=cast("VolumeFeatures", None), repr=False)
    """None: a guest's own network makes what it needs of the pictures."""

    @property
    def num_bytes(self) -> int:
        """Grid and pictures."""
        width, height = self.shown.blank.size
        channels = self.grid.voxels if self.grid.channels is None else self.grid.channels
        return channels.nbytes + len(self.shown.slices) * width * height * 3


class GuestPredictor(Predictor):
    """A guest, ready to be asked.

    Args:
        evidence_passes: most masks per answer; None takes 2·log2(N)·k, 0 measures no evidence.
    """

    def __init__(self, *, guest: Guest, card: ModelCard, evidence_passes: int | None = None) -> None:
        self.guest, self.card, self.evidence_passes = guest, card, evidence_passes
        self.grid_spec = guest.preset.grid_spec
        self.planes = ()
        self.cache = None
        self.processor = None  # type: ignore[assignment]  # a guest has its own, of another shape
        self._scheduler = None

    def encode(self, scan: Scan) -> GuestScan:
        """The pictures that a scan becomes; arguments and errors as for `Predictor.encode`."""
        if isinstance(scan, GuestScan):
            return scan
        if isinstance(scan, (str, Path, np.ndarray)):
            from slicesight.io.loading import read_scan

            scan = read_scan(scan)
        if isinstance(scan, EncodedScan):
            scan = scan.grid
        grid = self.grid(scan) if isinstance(scan, Volume) else scan
        return GuestScan(grid=grid, shown=show(grid, self.guest.preset))

    def as_control(self, grid: GridVolume) -> GuestScan:
        """A scan whose answers alone are wanted."""
        return replace(self.encode(grid), wants_evidence=False)

    def batching(self, *, batch_size: int = 16) -> GuestBatching:  # type: ignore[override]  # the same methods
        """What answers requests; a guest answers one question at a time."""
        return GuestBatching(self)

    follows_system = True

    def check_options(self, options: dict[str, Any]) -> None:
        self.guest.check_options(options)

    def make_sampler(self, options: dict[str, Any]) -> None:
        """A guest draws for itself."""

    @property
    def longest_text(self) -> int | None:
        """Not known without the pictures; the guest refuses what is too long when it is asked."""
        return None

    def tokenize(
        self,
        processor: Any,
        questions: Sequence[str],
        *,
        history: Any,
        num_volumes: int,
        system: str | None = None,
        prefix: str = "",
    ) -> None:
        """A guest makes its own prompts."""

    def decode(self, token_ids: Sequence[int]) -> str:
        return self.guest.decode(token_ids)

    def digest(self) -> str:
        """Of whatever changes answers or evidence."""
        return f"{self.guest.digest()}-{self.evidence_passes}"

    def measure(self, scan: GuestScan, asked: GuestQuestion, said: Said) -> tuple[Occlusion, str] | str:
        """The evidence of an answer with a line that says how it was measured, or why there is none."""
        if not scan.wants_evidence or self.evidence_passes == 0:
            return TURNED_OFF
        found = self.guest.likelihood(asked, said)
        if found is None:
            return NO_LIKELIHOOD
        likelihood, measure = found
        occlusion = occlude(likelihood, len(scan.shown.slices), max_passes=self.evidence_passes)
        return occlusion, occlusion_note(occlusion, measure)

    def __getstate__(self) -> dict[str, Any]:
        """Raises ModelError: a guest is loaded where it answers."""
        raise ModelError(f"{self.card.name}: a guest cannot be pickled; load it in the other process.")


def occlusion_note(found: Occlusion, measure: Measure) -> str:
    """How the evidence was measured, and how much there was to measure."""
    how = f"measured by occlusion in {found.num_passes} passes: {MEASURES[measure]}"
    unit = "" if measure == "agreement" else " nats"
    without = f"without any slice it loses {found.fall:.2f}{unit}"
    if found.fall < 0:
        without = f"without any slice it is likelier by {-found.fall:.2f}{unit}"
    if found.is_flat:
        least = f"{LEAST_FALL:g}{unit}"
        return f"{how}; no group of slices costs it {least}, so the answer rests on none of them; {without}"
    return f"{how}; {without}"


@dataclass(eq=False)
class OpenGuestQuestion:
    """A question at work."""

    request: AskRequest


class GuestBatching:
    """What `ContinuousBatching` is for the package's own models: answers requests in one thread, one by one."""

    def __init__(self, predictor: GuestPredictor) -> None:
        self.predictor = predictor
        self.open: dict[int, OpenGuestQuestion] = {}

    def answer(self, take: Callable[[], AskRequest | None]) -> Iterator[None]:
        """Answer what `take` gives, until it gives None; stops for a moment after every question.

        An error is its request's alone.
        """
        while (request := take()) is not None:
            if request.is_cancelled:
                continue
            self.open[0] = OpenGuestQuestion(request)
            try:
                yield from self._answer(request)
            except BaseException as error:
                request.on_error(as_exception(error))
            finally:
                self.open.clear()
            yield

    @property
    def num_rows(self) -> int:
        """Questions at work."""
        return len(self.open)

    def fail_all(self, error: Exception, *, only_waiting: bool = False) -> None:
        """Tell everybody who waits that there will be no answer."""
        for question in list(self.open.values()):
            question.request.on_error(error)
        self.open.clear()

    def cancel_all(self) -> None:
        """Nobody waits any more; the one at work stops at its next token."""
        for question in list(self.open.values()):
            question.request.is_cancelled = True

    def _answer(self, request: AskRequest) -> Iterator[None]:
        request.check()
        scan = None if request.scan is None else self.predictor.encode(request.scan())
        request.scan = None  # it may hold the whole volume
        free = {question for number, question in enumerate(request.questions) if number not in request.constrained}
        for number, question in enumerate(request.questions):
            if request.is_cancelled:
                return
            is_held = number in request.constrained and bool(listed_choices(question))
            asked = GuestQuestion(
                question=question,
                shown=None if scan is None else scan.shown,
                history=request.history,
                **request.given,
                max_new_tokens=request.max_new_tokens,
                only_choices=is_held,
                options=request.options,
            )
            needs_evidence = not (is_held and question in free)  # the free answer's is shown
            piece = self._piece(request, number, asked, scan if needs_evidence else None)
            if not request.is_cancelled:
                request.on_piece(piece)
            yield

    def _piece(self, request: AskRequest, number: int, asked: GuestQuestion, scan: GuestScan | None) -> AnswerPiece:
        """The whole answer; its first text is passed on while it is made."""
        latest = ""
        decoder = AnswerDecoder(asked.question, lambda _: latest)  # a guest gives text; how it counts tokens is its own

        def on_text(so_far: Callable[[], str]) -> bool:
            nonlocal latest
            if request.in_pieces:
                latest = so_far()
                if text := decoder.next_piece(()):
                    request.on_piece(AnswerPiece(number=number, text=text))
            return not request.is_cancelled

        options = asked.options
        if options.get("seed") is not None:
            options = {**options, "seed": int(options["seed"]) + request.first_number + number}
        said = self.predictor.guest.answer(replace(asked, options=options), on_text)
        latest = said.text
        last, text = decoder.finish(())
        answer = replace(self._with_evidence(asked, said, text, scan), confidence_note=NOT_FOR_GUESTS)
        return AnswerPiece(
            number=number,
            text=last,
            answer=with_choice(answer) if asked.only_choices else answer,
            num_prompt_tokens=said.num_prompt_tokens,
            num_answer_tokens=said.num_answer_tokens,
            is_truncated=said.is_cut,
        )

    def _with_evidence(self, asked: GuestQuestion, said: Said, text: str, scan: GuestScan | None) -> Answer:
        cut_at = said.num_answer_tokens if said.is_cut else None
        found = NO_SCAN if scan is None else NO_TEXT if text == NO_WORDS else self.predictor.measure(scan, asked, said)
        if scan is None or isinstance(found, str):
            scores: tuple[float, ...] = ()
            told: dict[str, Any] = {"grid": None, "evidence": "none", "evidence_note": str(found)}
        else:
            scores = found[0].shares
            told = {"grid": scan.grid, "evidence": "occlusion", "evidence_note": found[1]}
        return make_answer(
            asked.question, text, scores, cut_at=cut_at, system=asked.system, prefix=asked.prefix, **told
        )


def refuse_for_guests(name: str, **settings: Any) -> None:
    """Raises InputError for a setting of `load` that only the package's own models have."""
    for setting, value in settings.items():
        if value:
            raise InputError(f"{name} is a guest, and {setting} is for this package's own models; leave it out.")
