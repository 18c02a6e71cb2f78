"""Ask questions of a 3D medical scan and see which slices weigh most in each answer.

    >>> import slicesight
    >>> predictor = slicesight.load()
    >>> scan = slicesight.read_volume("scan.nii.gz")
    >>> for answer in predictor.ask(scan, ["Which phase is this?"]):
    ...     print(answer.text, answer.slices[0].position_mm)

Research use only; not a medical device. Importing this name is light: torch loads with the first call that needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slicesight.inference import Answer, Predictor, SliceEvidence, load, load_embedder
    from slicesight.io.loading import read_volume
    from slicesight.volumes.volume import Volume

__version__ = "0.1.0"
__all__ = ["Answer", "Predictor", "SliceEvidence", "Volume", "__version__", "load", "load_embedder", "read_volume"]

_HOMES = {
    "Answer": "slicesight.inference",
    "Predictor": "slicesight.inference",
    "SliceEvidence": "slicesight.inference",
    "load": "slicesight.inference",
    "load_embedder": "slicesight.inference",
    "read_volume": "slicesight.io.loading",
    "Volume": "slicesight.volumes.volume",
}
_OLD_NAMES = {"Reader": "Predictor"}
"""Names of the last version; each works for this one, with a warning."""


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _OLD_NAMES:
        from warnings import warn

        new = _OLD_NAMES[name]
        warn(f"slicesight.{name} is called slicesight.{new} now", DeprecationWarning, stacklevel=2)
        name = new
    if name not in _HOMES:
        raise AttributeError(f"module 'slicesight' has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
