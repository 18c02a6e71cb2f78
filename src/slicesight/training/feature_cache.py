"""What did a frozen encoder give for this volume? Kept on disk, so that it runs once per volume and not once per visit.

One folder per encoder: key.json says which weights and which preparation made it, and every volume has a file named by
its voxels. With another key the folder is refused, never silently used: its features would be those of another model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from slicesight.data.dataset import Dataset
from slicesight.errors import InputError
from slicesight.files import replacing, write_text
from slicesight.models.fingerprint import digest_encoder
from slicesight.models.med2e3 import Med2E3ForConditionalGeneration
from slicesight.models.med2e3.slice_scorer import is_frozen

KEY_FILE = "key.json"
ARGUMENTS = {"vision3d": "features_3d", "vision2d": "features_2d"}
NAME = "features"


@dataclass(frozen=True, kw_only=True)
class TrainingFeatureCache:
    """The features of one encoder; `argument` is what the model's forward calls them."""

    part: str
    folder: Path

    @property
    def argument(self) -> str:
        return ARGUMENTS[self.part]

    def path(self, data: Dataset, case: int) -> Path:
        """Where the features of a case are, or would be."""
        fingerprint = data.fingerprint(data.cases[case])
        return self.folder / fingerprint[:2] / f"{fingerprint}.safetensors"

    def read(self, data: Dataset, case: int) -> Tensor:
        """The features of one volume, (K, P, C) or (N, L, C); raises InputError where the file is damaged."""
        path = self.path(data, case)
        try:
            return load_file(path)[NAME]
        except (SafetensorError, KeyError):
            raise InputError(f"{path}: not a whole feature file; delete it and start again") from None

    def write(self, data: Dataset, case: int, features: Tensor) -> None:
        """Keep the features of one volume."""
        path = self.path(data, case)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            save_file({NAME: features.detach().cpu().contiguous()}, partial)


def open_caches(
    folder: str | Path,
    model: Med2E3ForConditionalGeneration,
    data: Dataset,
    *,
    bf16: bool,
    is_main: bool = True,
) -> list[TrainingFeatureCache]:
    """A cache for every encoder that is frozen now.

    Raises InputError for a folder that was filled by other weights or from volumes prepared otherwise.
    """
    caches = []
    for part in ARGUMENTS:
        encoder = model.parts.get(part)
        if encoder is None or not is_frozen(encoder):
            continue
        cache = TrainingFeatureCache(part=part, folder=Path(folder) / part)
        key = {"weights": digest_encoder(model, part), "preparation": data.preparation, "bf16": bf16}
        path = cache.folder / KEY_FILE
        if path.is_file():
            found = json.loads(path.read_text(encoding="utf-8"))
            for name, wanted in key.items():
                if found.get(name) != wanted:
                    raise InputError(
                        f"{cache.folder}: its features were made with other {name} ({str(found.get(name))[:12]}, now "
                        f"{str(wanted)[:12]}); delete the folder, or name another one under feature_cache"
                    )
        elif is_main:
            cache.folder.mkdir(parents=True, exist_ok=True)
            write_text(path, text=json.dumps(key, indent=1) + "\n")
        caches.append(cache)
    return caches


@torch.no_grad()
def fill_caches(
    caches: Sequence[TrainingFeatureCache],
    model: Med2E3ForConditionalGeneration,
    data: Dataset,
    cases: Sequence[int],
    *,
    device: torch.device,
    bf16: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Encode every case that is not there yet, one at a time -> how many were encoded."""
    encode = {"vision3d": model.encode_3d, "vision2d": model.encode_2d}
    was_training = model.training
    model.train(False)
    for cache in caches:
        model.parts[cache.part].to(device)
    num_encoded = 0
    for number, case in enumerate(cases):
        progress(number, len(cases))
        missing = [cache for cache in caches if not cache.path(data, case).is_file()]
        if not missing:
            continue
        volumes = torch.from_numpy(data.voxels(data.cases[case]))[None, None].to(device)
        for cache in missing:
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
                cache.write(data, case, encode[cache.part](volumes)[0])
        num_encoded += 1
    progress(len(cases), len(cases))
    model.train(was_training)
    return num_encoded
