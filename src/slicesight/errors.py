"""The one family of errors a user's data or settings can cause.

Every message is one line that says what was found, what was expected and what to change. The command line
prints it and exits with code 2; anything that is not an `InputError` is our own fault and keeps its traceback.
"""

from __future__ import annotations

from importlib.util import find_spec


class InputError(ValueError):
    """A file, folder, recipe or option that cannot be used as it is."""


class VolumeError(InputError):
    """A scan that cannot be read, or whose header contradicts itself."""


class ManifestError(InputError):
    """A manifest line that does not follow the schema."""


class ModelError(InputError):
    """A model folder or configuration that cannot be built."""


MODEL_LIBRARIES = ("torch", "transformers", "safetensors", "tokenizers", "huggingface_hub", "sentencepiece")
"""What slicesight-core does not bring: only what runs or reads a model needs them."""


def check_installed(*libraries: str) -> None:
    """Refuse, before any work, what needs a library of `MODEL_LIBRARIES` that is not installed.

    Raises:
        ModelError: which one, and how to get it.
    """
    for library in libraries:
        if find_spec(library) is None:
            raise ModelError(how_to_install(library))


def how_to_install(library: str) -> str:
    """One line about a library of `MODEL_LIBRARIES` that is not installed."""
    return (
        f"{library} is not installed, and a model that runs here needs it: pip install slicesight (without a GPU "
        "see docs/install.md first, it saves 5 GB); a model behind a server needs none: --model openai:URL#MODEL"
    )


def check_type(value: object, kind: type | tuple[type, ...], *, name: str, expected: str) -> None:
    """Refuse a public function's argument that is of no use, in one line; True is no number.

    Raises:
        InputError: what it is, and what was `expected` under this `name`.
    """
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
        is_short = value is None or isinstance(value, str | int | float)
        found = repr(value)[:80] if is_short else f"a {type(value).__name__}"
        raise InputError(f"{name} is {found}; expected {expected}")
