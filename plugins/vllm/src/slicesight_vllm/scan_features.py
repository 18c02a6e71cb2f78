"""What does a worker keep of scans, so that each is encoded once whatever is asked, and its scores can be read later?

vLLM's own cache of encoder outputs forgets z_2D's makings: a second question needs the tokens of all slices again. They
are kept here under the scan's key, the ones used last within a bound of bytes. N slices.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable

from slicesight.errors import InputError
from slicesight.inference.encoded_scan import LeastRecentlyUsed, count_bytes
from slicesight.models.med2e3.slice_scorer import VolumeFeatures

GIB_VARIABLE = "SLICESIGHT_VLLM_FEATURE_GIB"
DEFAULT_GIB = 2.0
MAX_SCORES = 65_536
"""Questions whose slice scores are kept; 32 numbers each."""


def read_feature_bytes() -> int:
    """Bytes of encoded scans a worker may keep, from the environment.

    Raises:
        InputError: what stands there is no positive number.
    """
    given = os.environ.get(GIB_VARIABLE, str(DEFAULT_GIB))
    try:
        gib = float(given)
    except ValueError:
        gib = 0.0
    if not 0 < gib < float("inf"):
        raise InputError(f"{GIB_VARIABLE} is {given!r}; expected GiB of encoded scans to keep, a number above 0.")
    return int(gib * 2**30)


class ScanFeatures:
    """Encoded scans by key, and slice scores by the key of scan and question.

    num_encoded: how often the encoders ran.
    """

    def __init__(self, *, max_bytes: int) -> None:
        self._features: LeastRecentlyUsed[VolumeFeatures] = LeastRecentlyUsed(
            max_bytes=max_bytes, count=count_bytes, min_items=1
        )
        self._scores: OrderedDict[str, list[float]] = OrderedDict()
        self.num_encoded = 0

    def get(self, key: str, encode: Callable[[], VolumeFeatures]) -> VolumeFeatures:
        """The scan's tokens, kept or newly made."""
        found = self._features.get(key)
        if found is None:
            found = encode()
            self.num_encoded += 1
            self._features.put(key, found)
        return found

    def keep_scores(self, key: str, scores: list[float]) -> None:
        """Keep the slice scores of one question about one scan."""
        self._scores[key] = scores
        self._scores.move_to_end(key)
        while len(self._scores) > MAX_SCORES:
            self._scores.popitem(last=False)

    def scores(self, key: str) -> list[float] | None:
        """The scores, if they are still kept."""
        return self._scores.get(key)
