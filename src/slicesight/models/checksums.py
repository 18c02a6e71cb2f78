"""Are a model folder's weights still those that were saved? A flipped bit changes an answer and nothing else.

SHA256SUMS beside the weights, as `sha256sum -c SHA256SUMS` reads it. Checked when the folder is loaded: 0.7 s for a GB
(SHA-256 at 1.4 GB/s, one thread of an AMD EPYC), 4 ms for a shipped model. A folder without the file is not checked.
"""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path

from slicesight.errors import ModelError
from slicesight.files import write_text

SUMS_FILE = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64}) [ *]([^/\\]+)")


def write_checksums(folder: str | Path) -> None:
    """Of every file of the model's weights; not of a calibration's, which is checked by itself."""
    lines = [f"{_digest(path)}  {path.name}\n" for path in sorted(Path(folder).glob("model*.safetensors"))]
    write_text(Path(folder) / SUMS_FILE, text="".join(lines))


def check_checksums(folder: str | Path) -> None:
    """Raises ModelError where the weights are not those that were saved; what is missing is found by its reader."""
    path = Path(folder) / SUMS_FILE
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if (found := _LINE.fullmatch(line)) is None:
            raise ModelError(f"{path}: {line[:40]!r} is no checksum and file name; copy the folder again")
        weights = path.with_name(found[2])
        if weights.is_file() and _digest(weights) != found[1]:
            raise ModelError(
                f"{weights}: its bytes are not those that were saved; copy the folder again, or, if the weights were "
                f"changed on purpose, run: python -m slicesight.models.checksums {folder}"
            )


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


if __name__ == "__main__":
    for place in sys.argv[1:]:
        write_checksums(place)
