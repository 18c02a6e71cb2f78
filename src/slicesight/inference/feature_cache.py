"""Has this scan been encoded before, with this preprocessing and these weights?

The key is the grid's own voxels, which are the file's content after all preprocessing, and the encoders' weights and
settings: what gives the same tokens has the same key, and nothing else has. In memory and, on wish, as files.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from slicesight.errors import InputError
from slicesight.files import replacing
from slicesight.inference.encoding import encoder_digest, weights_fingerprint
from slicesight.models.med2e3 import Med2E3ForConditionalGeneration, VolumeFeatures
from slicesight.volumes.grid import GridVolume

DEFAULT_FOLDER_BYTES = 8 * 2**30
SUFFIX = ".features.safetensors"


class FeatureCache:
    """Keeps the encoders' tokens of the scans used last.

    Args:
        memory_bytes: most kept in memory; 0 keeps nothing there.
        folder: where they are kept as files as well; must exist. The files show what the scan shows.
        folder_bytes: most kept there; the files used longest ago go first.
    """

    def __init__(
        self, *, memory_bytes: int = 0, folder: Path | None = None, folder_bytes: int = DEFAULT_FOLDER_BYTES
    ) -> None:
        if folder is not None and not folder.is_dir():
            raise InputError(f"{folder}: no such folder to keep encoded scans in; create it or name another.")
        self.memory_bytes, self.folder, self.folder_bytes = memory_bytes, folder, folder_bytes
        self.hits = self.misses = 0
        self._kept: OrderedDict[str, VolumeFeatures] = OrderedDict()
        self._digests: dict[int, str] = {}
        self._turn = threading.Lock()

    def get(
        self, model: Med2E3ForConditionalGeneration, grid: GridVolume, encode: Callable[[], VolumeFeatures]
    ) -> VolumeFeatures:
        """The tokens kept for this scan, or newly made and kept."""
        key = self._key(model, grid)
        found = self._find(key)
        if found is None:
            with self._turn:
                self.misses += 1
            found = encode()
            self._keep(key, found)
            self._write(key, found)
        else:
            with self._turn:
                self.hits += 1
            self._keep(key, found)
        return VolumeFeatures(**{name: tensor.to(model.device) for name, tensor in found.items()})

    @property
    def num_bytes(self) -> int:
        """Kept in memory now."""
        return sum(count_bytes(features) for features in self._kept.values())

    def _key(self, model: Med2E3ForConditionalGeneration, grid: GridVolume) -> str:
        mark = weights_fingerprint(model)
        with self._turn:
            if mark not in self._digests:
                self._digests = {mark: encoder_digest(model)}
            digest = hashlib.sha256(self._digests[mark].encode())
        digest.update(f"{grid.voxels.dtype} {grid.voxels.shape}".encode())
        digest.update(grid.voxels.tobytes())
        return digest.hexdigest()

    def _find(self, key: str) -> VolumeFeatures | None:
        with self._turn:
            if key in self._kept:
                return self._kept[key]
        if self.folder is None:
            return None
        path = self.folder / f"{key}{SUFFIX}"
        try:
            tensors = load_file(path)
            os.utime(path)
        except FileNotFoundError:
            return None
        except SafetensorError as error:
            raise InputError(f"{path}: a damaged file of encoded scans ({error}); remove it.") from error
        return VolumeFeatures(**tensors)

    def _keep(self, key: str, features: VolumeFeatures) -> None:
        with self._turn:
            if count_bytes(features) > self.memory_bytes:
                return
            self._kept[key] = features
            self._kept.move_to_end(key)
            while self.num_bytes > self.memory_bytes:
                self._kept.popitem(last=False)

    def _write(self, key: str, features: VolumeFeatures) -> None:
        if self.folder is None or count_bytes(features) > self.folder_bytes:
            return
        with replacing(self.folder / f"{key}{SUFFIX}") as temporary:
            save_file({name: tensor.cpu().contiguous() for name, tensor in features.items()}, temporary)
        with self._turn:
            files = sorted(self.folder.glob(f"[!.]*{SUFFIX}"), key=lambda path: path.stat().st_mtime)
            held = sum(path.stat().st_size for path in files)
            while held > self.folder_bytes:
                oldest = files.pop(0)
                held -= oldest.stat().st_size
                oldest.unlink(missing_ok=True)


def count_bytes(features: VolumeFeatures) -> int:
    """Bytes of a volume's tokens."""
    tensors = [value for value in features.values() if isinstance(value, torch.Tensor)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
