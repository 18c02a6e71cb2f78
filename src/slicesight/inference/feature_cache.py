"""Has this scan been encoded before, with this preprocessing and these weights?

The key is the grid's own voxels, which are the file's content after all preprocessing, and the encoders' weights and
settings: what gives the same tokens has the same key, and nothing else has. In memory and, on wish, as files.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from slicesight.errors import InputError
from slicesight.files import replacing
from slicesight.inference.encoded_scan import LeastRecentlyUsed, count_bytes
from slicesight.models.fingerprint import digest_encoders, weights_version
from slicesight.models.med2e3 import Med2E3ForConditionalGeneration, VolumeFeatures
from slicesight.volumes.grid import GridVolume

logger = logging.getLogger(__name__)
DEFAULT_FOLDER_BYTES = 8 * 2**30
SUFFIX = ".features.safetensors"


class FeatureCache:
    """Keeps the encoders' tokens of the scans used last.

    Args:
        memory_bytes: most kept in memory; 0 keeps nothing there.
        folder: where they are kept as files as well, made if it is not there. The files show what the scan shows.
        folder_bytes: most kept there; the files used longest ago go first.
    """

    def __init__(
        self, *, memory_bytes: int = 0, folder: Path | None = None, folder_bytes: int = DEFAULT_FOLDER_BYTES
    ) -> None:
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(
                    f"{folder}: no folder can be made there to keep encoded scans in ({error.strerror}); name another."
                ) from error
        self.folder, self.folder_bytes = folder, folder_bytes
        self.memory: LeastRecentlyUsed[VolumeFeatures] = LeastRecentlyUsed(max_bytes=memory_bytes, count=count_bytes)
        self.hits = self.misses = 0
        self._digests: dict[int, str] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """Its settings: what is kept in memory stays where it is."""
        return {"memory_bytes": self.memory.max_bytes, "folder": self.folder, "folder_bytes": self.folder_bytes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def get(
        self, model: Med2E3ForConditionalGeneration, grid: GridVolume, encode: Callable[[], VolumeFeatures]
    ) -> VolumeFeatures:
        """The tokens kept for this scan, or newly made and kept."""
        key = self._key(model, grid)
        found = self.memory.get(key)
        if found is None:
            found = self._read(key)
        with self._lock:
            self.hits += found is not None
            self.misses += found is None
        if found is None:
            found = encode()
            self._write(key, found)
        self.memory.put(key, found)
        return VolumeFeatures(**{name: tensor.to(model.device) for name, tensor in found.items()})

    def _key(self, model: Med2E3ForConditionalGeneration, grid: GridVolume) -> str:
        version = weights_version(model)
        with self._lock:
            if version not in self._digests:
                self._digests = {version: digest_encoders(model)}
            digest = hashlib.sha256(self._digests[version].encode())
        digest.update(f"{grid.voxels.dtype} {grid.voxels.shape}".encode())
        digest.update(grid.voxels.tobytes())
        return digest.hexdigest()

    def _read(self, key: str) -> VolumeFeatures | None:
        if self.folder is None:
            return None
        path = self.folder / f"{key}{SUFFIX}"
        try:
            found = VolumeFeatures(**load_file(path))
            os.utime(path)
        except FileNotFoundError:
            return None
        except (SafetensorError, TypeError, OSError) as error:
            logger.warning("%s: a damaged file of an encoded scan (%s); the scan is encoded anew", path, error)
            return None
        return found

    def _write(self, key: str, features: VolumeFeatures) -> None:
        if self.folder is None or count_bytes(features) > self.folder_bytes:
            return
        with replacing(self.folder / f"{key}{SUFFIX}") as temporary:
            save_file({name: tensor.cpu().contiguous() for name, tensor in features.items()}, temporary)
        with self._lock:
            files = sorted(self.folder.glob(f"[!.]*{SUFFIX}"), key=lambda path: path.stat().st_mtime)
            held = sum(path.stat().st_size for path in files)
            while held > self.folder_bytes:
                oldest = files.pop(0)
                held -= oldest.stat().st_size
                oldest.unlink(missing_ok=True)
