"""How likely is an answer when slices of the scan are taken away? log p(answer | question, masked scan), in one batch.

V masked versions of one scan, N slices, K depth bins, P and L tokens, D width, T tokens of the prompt. A deleted slice
is black. "whole": both encoders see the masked scan. "slices": only the 2D branch does, which is what the scores weigh.
Every mask is computed once per question, and its 3D tokens once per scan as long as no more than KEPT_MASKS are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slicesight.data.choices import listed_choices
from slicesight.inference.predictor import Predictor
from slicesight.models.med2e3 import VolumeFeatures
from slicesight.volumes.grid import GridVolume

BRANCHES = ("whole", "slices")
VOLUMES_AT_ONCE = 32
KEPT_MASKS = 64


@dataclass(frozen=True)
class MaskableScan:
    """A scan encoded once, with what the encoders make of a black one: masking the 2D branch then costs nothing."""

    predictor: Predictor
    voxels_1NHW: Tensor  # noqa: N815
    seen: VolumeFeatures
    black: VolumeFeatures
    known_3d: dict[bytes, Tensor] = field(default_factory=dict)

    def features(self, kept_VN: NDArray[np.bool_], *, branch: str) -> VolumeFeatures:
        """Features of V versions of the scan in which only the kept slices are left."""
        kept = torch.from_numpy(kept_VN).to(self.voxels_1NHW.device)
        tokens_2d = self.seen.tokens_2d_VNLD
        if tokens_2d is not None:
            assert self.black.tokens_2d_VNLD is not None
            tokens_2d = torch.where(kept[:, :, None, None], tokens_2d, self.black.tokens_2d_VNLD)
        tokens_3d = self.seen.tokens_3d_VKPD
        if tokens_3d is not None and branch == "whole":
            tokens_3d = torch.stack([self._masked_3d(mask_N) for mask_N in kept])
        elif tokens_3d is not None:
            tokens_3d = tokens_3d.expand(len(kept), -1, -1, -1)
        return VolumeFeatures(tokens_3d_VKPD=tokens_3d, tokens_2d_VNLD=tokens_2d)

    def _masked_3d(self, kept_N: Tensor) -> Tensor:
        """3D tokens (K, P, D) of the scan with only these slices."""
        key = kept_N.cpu().numpy().tobytes()
        if key in self.known_3d:
            return self.known_3d[key]
        model = self.predictor.model
        assert model.vision3d is not None
        assert model.projector_3d is not None
        masked_1CNHW = (self.voxels_1NHW * kept_N[:, None, None]).unsqueeze(1)
        tokens_KPD: Tensor = model.projector_3d(model.vision3d(masked_1CNHW))[0]
        if len(self.known_3d) < KEPT_MASKS:
            self.known_3d[key] = tokens_KPD
        return tokens_KPD


def open_scan(predictor: Predictor, grid: GridVolume) -> MaskableScan:
    """Encode a scan and a black one."""
    device, dtype = predictor.model.device, predictor.model.dtype
    voxels_1NHW = torch.from_numpy(grid.voxels)[None].to(device, dtype)
    with torch.inference_mode():
        seen = predictor.model.encode_volumes(voxels_1NHW[:, None])
        black = predictor.model.encode_volumes(torch.zeros_like(voxels_1NHW[:, None]))
    return MaskableScan(predictor, voxels_1NHW, seen, black)


def score_questions(scan: MaskableScan, questions: Sequence[str]) -> NDArray[np.float64]:
    """Slice scores of every question (Q, N) on the whole scan, without running the language model."""
    predictor = scan.predictor
    inputs = predictor.processor(list(questions), volume_index=[[0]] * len(questions)).to(predictor.model.device)
    with torch.inference_mode():
        scores_QMN = predictor.model.score_slices(scan.seen, **inputs)
    assert scores_QMN is not None
    found: NDArray[np.float64] = scores_QMN[:, 0].double().cpu().numpy()
    return found


def log_likelihoods(
    scan: MaskableScan, question: str, answer: str, kept_VN: NDArray[np.bool_], *, branch: str
) -> NDArray[np.float64]:
    """log p(answer) under each mask -> (V,), summed over the answer's tokens and its end."""
    unique_UN, row_V = np.unique(kept_VN, axis=0, return_inverse=True)
    found = [
        _log_likelihoods(scan, question, answer, unique_UN[start : start + VOLUMES_AT_ONCE], branch=branch)
        for start in range(0, len(unique_UN), VOLUMES_AT_ONCE)
    ]
    likely_V: NDArray[np.float64] = np.concatenate(found)[row_V.reshape(-1)]
    return likely_V


def as_generated(scan: MaskableScan, question: str, answer: str) -> str:
    """The answer as the model itself would write it: a letter that the predictor put before it is left out again."""
    letter, stop, words = answer.partition(". ")
    if not stop or letter not in listed_choices(question):
        return answer
    everything = np.ones((1, scan.voxels_1NHW.shape[1]), dtype=bool)
    likely = {
        text: log_likelihoods(scan, question, text, everything, branch="slices")[0] for text in (answer, words, letter)
    }
    return max(likely, key=lambda text: likely[text])


def _log_likelihoods(
    scan: MaskableScan, question: str, answer: str, kept_VN: NDArray[np.bool_], *, branch: str
) -> NDArray[np.float64]:
    predictor, count = scan.predictor, len(kept_VN)
    inputs = predictor.processor(
        [question] * count, answers=[answer] * count, volume_index=[[place] for place in range(count)]
    ).to(predictor.model.device)
    labels: Tensor = inputs.pop("labels")
    places = (labels[0] >= 0).nonzero().squeeze(-1)
    with torch.inference_mode():
        features = scan.features(kept_VN, branch=branch)
        logits = predictor.model(**inputs, volume_features=features, logits_to_keep=places - 1).logits
        spread = torch.log_softmax(logits.float(), dim=-1)
        said = spread.gather(-1, labels[:, places, None]).squeeze(-1).sum(dim=-1)
    return said.double().cpu().numpy()
