"""What is kept of a scan so that its next question costs little, and of many scans within a bound of bytes?"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from numpy.typing import NDArray

from slicesight.volumes.grid import GridVolume
from slicesight.volumes.volume import Volume

if TYPE_CHECKING:
    from slicesight.inference.calibration.strangeness import ScanJudgement
    from slicesight.inference.prefix_attention import Prefix
    from slicesight.models.med2e3 import VolumeFeatures

Item = TypeVar("Item")


@dataclass(kw_only=True)
class PrefixCache:
    """The latest prefix of one encoded scan; `key` says what it was made from."""

    key: tuple[Any, ...] | None = None
    prefix: Prefix | None = None

    def get(self, key: tuple[Any, ...], make: Callable[[], Prefix]) -> Prefix:
        if self.prefix is None or self.key != key:
            self.key, self.prefix = key, make()
        return self.prefix


@dataclass(kw_only=True)
class JudgementCache:
    """What a calibration last said of one encoded scan, beside scans of each of its groups."""

    owner: object | None = None
    judgements: dict[str, ScanJudgement] = field(default_factory=dict)

    def get(self, owner: object, group: str, make: Callable[[], ScanJudgement]) -> ScanJudgement:
        if self.owner is not owner:
            self.owner, self.judgements = owner, {}
        if group not in self.judgements:
            self.judgements[group] = make()
        return self.judgements[group]


@dataclass(frozen=True, kw_only=True)
class EncodedScan:
    """A scan after the expensive part: its grid and what the encoders made of it. Ask it as often as you like.

    prefix_cache: what its prompts have in common, once it has been asked. judgement: whether it is like the scans that
    the model was calibrated on, once that was asked.
    """

    grid: GridVolume
    features: VolumeFeatures
    prefix_cache: PrefixCache = field(default_factory=PrefixCache, repr=False, compare=False)
    judgement: JudgementCache = field(default_factory=JudgementCache, repr=False, compare=False)

    @property
    def num_bytes(self) -> int:
        """Grid, tokens, and the keys and values of what its prompts share."""
        prefix = self.prefix_cache.prefix
        return self.grid.voxels.nbytes + count_bytes(self.features) + (0 if prefix is None else prefix.store.num_bytes)


Scan = Volume | GridVolume | EncodedScan | str | Path | NDArray[Any]
"""What can be asked: a scan read, on the grid or encoded already, its path, or an array (Z, Y, X) without geometry."""


class LeastRecentlyUsed(Generic[Item]):
    """Items by key, those used last, within a bound of bytes; safe for several threads.

    Args:
        max_bytes: of all items. min_items: kept whatever they take.
        count: bytes of an item; they may grow while it is held.
    """

    def __init__(self, *, max_bytes: int, count: Callable[[Item], int], min_items: int = 0) -> None:
        self.max_bytes, self.min_items, self._count = max_bytes, min_items, count
        self._items: OrderedDict[str, Item] = OrderedDict()
        self._lock = threading.RLock()

    def get(self, key: str) -> Item | None:
        """The item, which counts as used now."""
        with self._lock:
            if key in self._items:
                self._items.move_to_end(key)
            return self._items.get(key)

    def put(self, key: str, item: Item) -> None:
        """Hold an item, and let those go that were used longest ago; one larger than the bound is not held."""
        with self._lock:
            if self._count(item) > self.max_bytes and not self.min_items:
                return
            self._items[key] = item
            self._items.move_to_end(key)
            while self.num_bytes > self.max_bytes and len(self._items) > self.min_items:
                self._items.popitem(last=False)

    def keep_only(self, keys: set[str]) -> None:
        """Forget all others."""
        with self._lock:
            for key in set(self._items) - keys:
                del self._items[key]

    def __contains__(self, key: str) -> bool:
        return key in self._items

    @property
    def num_bytes(self) -> int:
        """Held now."""
        with self._lock:
            return sum(map(self._count, self._items.values()))


def count_bytes(features: VolumeFeatures) -> int:
    """Bytes of a volume's tokens."""
    tensors = [features.tokens_3d_VKPD, features.tokens_2d_VNLD]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)
