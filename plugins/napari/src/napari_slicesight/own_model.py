"""How does a model answer inside napari itself, where slicesight is installed beside it?

It offers what `client.Server` does (`model`, `send`, `ask`, `forget`), and its answers come through the same fields, so
that the panel cannot tell them apart.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .answers import ScanAnswer
from .client import OnProgress, OnText, ServedModel
from .scan_file import ScreenScan, ViewerError, write_nifti


def is_installed() -> bool:
    """Whether slicesight is here; nothing of it is loaded."""
    return find_spec("slicesight") is not None


def model_names() -> list[str]:
    """Models that came with slicesight or were pulled."""
    if not is_installed():
        return []
    from slicesight.models.shipped import pulled_models, shipped_models

    return [*shipped_models(), *pulled_models()]


class OwnModel:
    """A model in this process, loaded with its first question.

    Args:
        name: as `slicesight.load` takes it: a shipped or pulled model, a folder, or a guest.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._predictor: Any = None
        self._kept: dict[str, tuple[Any, Any]] = {}
        self._numbers = itertools.count()

    @property
    def predictor(self) -> Any:
        """The loaded model.

        Raises:
            ViewerError: there is none of this name, or slicesight is not installed.
        """
        if self._predictor is None:
            if not is_installed():
                raise ViewerError("slicesight is not installed beside napari; install it, or ask a server.")
            import slicesight

            with _as_one_line():
                self._predictor = slicesight.load(self.name)
        return self._predictor

    def model(self) -> ServedModel:
        """What answers; loads it."""
        from slicesight.models.card import RESEARCH_NOTICE
        from slicesight.volumes.windows import CT_WINDOWS_HU, OTHER_WINDOWS

        card = self.predictor.card
        return ServedModel(card.name, (RESEARCH_NOTICE, *card.warnings), (*CT_WINDOWS_HU, *OTHER_WINDOWS))

    def send(
        self,
        scan: ScreenScan,
        *,
        window: str = "",
        on_progress: OnProgress | None = None,
        is_stopped: Callable[[], bool] | None = None,
    ) -> str:
        """Encode a scan for its questions -> the id it is kept by.

        Raises:
            ViewerError: it cannot be read as a scan.
        """
        with _as_one_line():
            volume = scan.volume if scan.volume is not None else _read(scan)
            grid = self.predictor.grid(volume, window=window or None)
            scan_id = f"scan {next(self._numbers)}"
            self._kept = {scan_id: (self.predictor.encode(grid), volume)}  # one at a time: they are large
        return scan_id

    def ask(
        self,
        scan_id: str,
        question: str,
        *,
        answer_anyway: bool = False,
        on_text: OnText | None = None,
        is_stopped: Callable[[], bool] | None = None,
    ) -> ScanAnswer:
        """One question; arguments and errors as of `Server.ask`."""
        from slicesight.models.card import RESEARCH_NOTICE
        from slicesight.serving.completions import evidence_fields

        scan, volume = self._kept[scan_id]
        questions = question.strip() or None
        text = ""
        with _as_one_line():
            for piece in self.predictor.ask_stream(scan, questions, answer_anyway=answer_anyway):
                if is_stopped is not None and is_stopped():
                    raise ViewerError("the question was called off.", "stopped")
                text += piece.text
                if piece.answer is not None:
                    message = {"content": piece.answer.text, **evidence_fields(piece.answer, plane=scan.grid.plane)}
                    return ScanAnswer.from_message(
                        question,
                        message,
                        finish_reason="length" if piece.is_truncated else "stop",
                        notices=[RESEARCH_NOTICE, *self.predictor.card.warnings_about(volume)],
                    )
                if on_text is not None and text:
                    on_text(text)
        raise ViewerError(f"{self.name} ended without an answer; ask again.")

    def forget(self, scan_id: str) -> None:
        """Give the encoded scan's memory back."""
        self._kept.pop(scan_id, None)


def _read(scan: ScreenScan) -> Any:
    """As the server would: through a file, so that both answer alike."""
    from slicesight.io.loading import read_volume

    with tempfile.TemporaryDirectory(prefix="slicesight-") as place:
        file = Path(place) / "scan.nii.gz"
        write_nifti(scan, file)
        return read_volume(file, unit=scan.unit or None)  # type: ignore[arg-type]  # the panel's two words


@contextmanager
def _as_one_line() -> Iterator[None]:
    """slicesight's own words for a user's mistake."""
    from slicesight.errors import InputError

    try:
        yield
    except InputError as error:
        raise ViewerError(str(error)) from None
