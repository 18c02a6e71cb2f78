"""How does DeepTumorVQA's own evaluator run a model of ours? As its custom class:

    deeptumorvqa-eval --backend custom --custom-module slicesight.evaluation.benchmarks.deeptumorvqa_custom \
        --model phantom-tiny --mode vqa --input 3d_volume --format mc --data-dir DeepTumorVQA_2.0 --output mc.json

Its prompt is taken apart, and the question with its choices asked as `slicesight evaluate` asks it, so that both give
the same answers. What its prompt adds (the window, sex, age, voxel spacing) is left out, as there. Its class is
imported from its package when it calls `build_evaluator`; none of its code is part of this one.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from slicesight.data.manifest import LETTERS
from slicesight.data.sources.deeptumorvqa import split_choices
from slicesight.data.sources.intake import UnusableError
from slicesight.errors import InputError
from slicesight.evaluation import controls
from slicesight.inference.encoded_scan import EncodedScan
from slicesight.inference.loading import load
from slicesight.inference.predictor import Predictor

_BEFORE = ("The image is", "The video plays", "You are given", "Patient:", "Voxel spacing")
_AFTER = "Answer with"


def build_evaluator(args: Any) -> Any:
    """The object whose `run` its command line calls; `args.model` is a shipped model, a folder or a hub name."""
    try:
        base = import_module("deeptumorvqa.eval.vqa_evaluator").HFVLMEvaluator
    except ImportError:
        raise InputError(
            "deeptumorvqa is not installed; get it from https://github.com/Schuture/DeepTumorVQA (pip install .)"
        ) from None

    class SlicesightEvaluator(base):  # type: ignore[misc, valid-type]  # its package may not be here
        def __init__(self) -> None:
            super().__init__(model_id=args.model, device="cpu")
            self.asker = VolumeAsker(load(args.model))

        def generate(self, prompt: str, images: list[Any] | None = None, video_path: str | None = None) -> str:
            return self.asker.answer(prompt, video_path)

    return SlicesightEvaluator()


class VolumeAsker:
    """Asks one question after the other; a scan is read and encoded once for all questions that follow each other."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self._last: tuple[str, EncodedScan] | None = None

    def answer(self, prompt: str, path: str | None) -> str:
        """What the model says to the question in the prompt.

        Raises:
            InputError: no NIfTI is given; this model reads volumes, so `--input 3d_volume`.
        """
        if path is None or not path.endswith((".nii", ".nii.gz")):
            raise InputError(f"found {path!r}, expected the path of a NIfTI; run it with --input 3d_volume")
        if self._last is None or self._last[0] != path:
            self._last = path, self.predictor.encode(Path(path))
        length = controls.MAX_NEW_TOKENS
        (found,) = self.predictor.ask(self._last[1], [asked_in(prompt)], max_new_tokens=length, choices="both")
        return found.generated_text


def asked_in(prompt: str) -> str:
    """The question of its prompt, with its choices as ours list them; without, as it stands there."""
    lines = [line for line in prompt.split("\n") if not line.startswith((*_BEFORE, _AFTER))]
    text = "\n".join(lines).strip()
    try:
        question, choices = split_choices(text)
    except UnusableError:
        return text
    listed = " ".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))
    return f"{question} Choices: {listed}"
