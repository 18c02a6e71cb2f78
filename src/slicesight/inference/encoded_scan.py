"""What is kept of a scan so that its next question costs little?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from slicesight.volumes.grid import GridVolume
from slicesight.volumes.volume import Volume

if TYPE_CHECKING:
    from slicesight.inference.prefix_attention import Prefix
    from slicesight.models.med2e3 import VolumeFeatures


@dataclass(kw_only=True)
class PrefixCache:
    """The latest prefix of one encoded scan; `key` says what it was made from."""

    key: tuple[Any, ...] | None = None
    prefix: Prefix | None = None

    def get(self, key: tuple[Any, ...], make: Callable[[], Prefix]) -> Prefix:
        if self.prefix is None or self.key != key:
            self.key, self.prefix = key, make()
        return self.prefix


@dataclass(frozen=True, kw_only=True)
class EncodedScan:
    """A scan after the expensive part: its grid and what the encoders made of it. Ask it as often as you like.

    memo: what its prompts have in common, once it has been asked.
    """

    grid: GridVolume
    features: VolumeFeatures
    memo: PrefixCache = field(default_factory=PrefixCache, repr=False, compare=False)


Scan = Volume | GridVolume | EncodedScan
