"""How does a process that only answers start without the libraries that only training and compiling need?

Most of the seconds that the import of transformers' models takes are `torch.distributed.tensor` (and with it sympy),
`torch._dynamo`, `scipy.optimize` and accelerate: for several processes, for the compiler, for losses of detection.
transformers runs where they are not installed; while it is imported here, it is told that they are not.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

UNUSED_PACKAGES = ("scipy", "accelerate")
TESTED = {"torch": "2.13.", "transformers": "5.23."}
"""With any other version everything is imported as usual."""


class _WithoutCompiler(ModuleType):
    """Stands for torch._dynamo while decorators ask it to mark functions for the compiler; its submodules are real."""

    def __init__(self, name: str, *, folder: str) -> None:
        super().__init__(name)
        self.__path__ = [folder]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _unmarked


@contextmanager
def light_imports() -> Iterator[None]:
    """Import transformers' models for a process that neither trains nor compiles; nothing where they are imported.

    It holds for the rest of the process, so commands do this, never the library.
    """
    if "transformers.modeling_utils" in sys.modules or "torch._dynamo" in sys.modules:
        yield
        return
    import torch
    import transformers
    from transformers.utils import import_utils

    if not (
        torch.__version__.startswith(TESTED["torch"]) and transformers.__version__.startswith(TESTED["transformers"])
    ):
        yield
        return
    name = "torch._dynamo"
    compiler = _WithoutCompiler(name, folder=str(Path(torch.__file__).parent / "_dynamo"))
    with ExitStack() as stack:
        stack.enter_context(patch.object(torch.distributed, "is_available", _no))
        for package in UNUSED_PACKAGES:
            for module in (transformers.utils, import_utils):
                stack.enter_context(patch.object(module, f"is_{package}_available", _no))
        sys.modules[name] = vars(torch)["_dynamo"] = compiler
        try:
            yield
        finally:
            del sys.modules[name], vars(torch)["_dynamo"]


def _no(*_: Any, **__: Any) -> bool:
    return False


def _unmarked(function: Any = None, *_: Any, **__: Any) -> Any:
    """A decorator, with or without arguments, that leaves the function alone."""
    return _unmarked if function is None else function
