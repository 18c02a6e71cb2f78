"""Ask questions of a 3D medical scan and see which slices each answer rests on.

    >>> import slicesight
    >>> reader = slicesight.load()
    >>> scan = slicesight.read_volume("scan.nii.gz")
    >>> for answer in reader.ask(scan, ["Which phase is this?"]):
    ...     print(answer.text, answer.slices[0].position_mm)

Research use only; not a medical device. Importing this name is light: torch loads with the first call that needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slicesight.reader import Answer, Reader, SliceEvidence, load
    from slicesight.volumes.readers import read_volume
    from slicesight.volumes.volume import Volume

__version__ = "0.1.0"
__all__ = ["Answer", "Reader", "SliceEvidence", "Volume", "__version__", "load", "read_volume"]

_HOMES = {
    "Answer": "slicesight.reader",
    "Reader": "slicesight.reader",
    "SliceEvidence": "slicesight.reader",
    "load": "slicesight.reader",
    "read_volume": "slicesight.volumes.readers",
    "Volume": "slicesight.volumes.volume",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'slicesight' has no attribute {name!r}; it offers {', '.join(__all__)}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
