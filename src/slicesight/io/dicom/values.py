"""How is one value taken from a DICOM header that may hold anything in its place?"""

from __future__ import annotations

import logging
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.errors import BytesLengthException
from pydicom.tag import BaseTag

from slicesight.errors import VolumeError

DAMAGED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BytesLengthException,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)  # what pydicom and its codecs raise on damaged bytes, found by fuzzing (benchmarks/fuzz_readers.py)


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Without pydicom's remarks on stderr: what is wrong with a header is said in our one line."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def value_of(name: str, dataset: Any, keyword: str | BaseTag) -> Any:
    """The element's value, None when it is absent or empty."""
    try:
        value = dataset.get(keyword)
    except DAMAGED as error:
        raise VolumeError(f"{name}: {keyword} is damaged ({type(error).__name__}); copy the file again") from None
    return None if value is None or (isinstance(value, str) and value == "") else value


def one_line(text: str) -> str:
    """The text with every control character and line break shown as a question mark."""
    return "".join(character if character.isprintable() else "?" for character in text)


def text_of(dataset: Any, keyword: str) -> str:
    """The element as one printable line, "" when it is absent or damaged."""
    try:
        value = value_of("", dataset, keyword)
        return "" if value is None else one_line(str(value))
    except (VolumeError, ValueError, TypeError):
        return ""


def numbers_of(name: str, dataset: Any, keyword: str, count: int) -> NDArray[np.float64] | None:
    """Exactly `count` finite numbers, None when the element is absent."""
    value = value_of(name, dataset, keyword)
    if value is None:
        return None
    try:
        numbers = np.asarray([float(part) for part in value], dtype=np.float64)
    except (TypeError, ValueError):
        numbers = np.empty(0)
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise VolumeError(f"{name}: {keyword} is {str(value)[:80]!r}; expected {count} numbers, fix the header")
    return numbers


def number_of(name: str, dataset: Any, keyword: str, *, default: float | None) -> float | None:
    """One finite number."""
    value = value_of(name, dataset, keyword)
    if value is None:
        return default
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = np.nan
    if not np.isfinite(number):
        raise VolumeError(f"{name}: {keyword} is {str(value)[:80]!r}; expected a number, fix the header")
    return number


def whole_number(name: str, dataset: Any, keyword: str, *, default: int) -> int:
    """One whole number."""
    number = number_of(name, dataset, keyword, default=default)
    assert number is not None
    return int(number)


def first_item(name: str, dataset: Any, keyword: str) -> Any:
    """The first item of a sequence, None when there is none."""
    sequence = value_of(name, dataset, keyword)
    return sequence[0] if sequence is not None and hasattr(sequence, "__len__") and len(sequence) else None
