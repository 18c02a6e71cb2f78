"""Is this argument of a public function what it must be? One line says what was found, expected, and what to change."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from slicesight.errors import ModelError

SHAPES = {
    2: "(prompts, tokens)",
    4: "(volumes, parts, tokens, width)",
    5: "(volumes, channels, slices, rows, columns)",
}


def check_tensor(value: Any, name: str, *, ndim: int | tuple[int, ...]) -> Tensor:
    """The value, if it is a tensor with so many axes; ModelError: it is anything else."""
    wanted = (ndim,) if isinstance(ndim, int) else ndim
    axes = f"{' or '.join(map(str, wanted))} axes" + (f" {SHAPES[wanted[0]]}" if wanted[0] in SHAPES else "")
    if not isinstance(value, Tensor):
        shown = f"{type(value).__name__} {str(value)[:60]!r}" if isinstance(value, str) else f"a {type(value).__name__}"
        hint = "; read the scan and put it on the model's grid first" if name == "volumes" else ""
        raise ModelError(f"{name} is {shown}; expected a tensor of {axes}{hint}, as the model's own processor makes.")
    if value.ndim not in wanted:
        raise ModelError(f"{name} has shape {tuple(value.shape)}; expected {axes}, as the model's own processor makes.")
    return value


def check_choice(value: Any, name: str, choices: tuple[Any, ...]) -> None:
    """Raises ModelError for a value that is none of the choices."""
    if value not in choices:
        raise ModelError(f"{name} is {value!r}; expected one of {', '.join(map(repr, choices))}.")
