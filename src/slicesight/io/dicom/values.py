"""How is one value taken from a DICOM header that may hold anything in its place?"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag

from slicesight.io.files import ScanError, damage_as, one_line


@contextmanager
def quiet_pydicom(*, also: str = "") -> Iterator[None]:
    """Without pydicom's remarks on stderr, or another logger's: what is wrong with a header is said in our one line."""
    loggers = [logging.getLogger(word) for word in ("pydicom", also) if word]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def value_of(dataset: Any, keyword: str | BaseTag) -> Any:
    """The element's value, None when it is absent or empty."""
    with damage_as(f"{keyword} is damaged", "copy the file again"):
        value = dataset.get(keyword)
    return None if value is None or (isinstance(value, str) and value == "") else value


def _float(part: Any) -> float:
    """A number, were it written with a decimal comma."""
    return float(part.replace(",", ".") if isinstance(part, str) else part)


def text_of(dataset: Any, keyword: str) -> str:
    """The element as one printable line, "" when it is absent or damaged."""
    try:
        return shown(value_of(dataset, keyword))
    except (ValueError, TypeError):
        return ""


def shown(value: Any) -> str:
    """A value as one printable line, "" for None and for a sequence, whose items may be of no known kind."""
    return "" if value is None or isinstance(value, Sequence | Dataset) else one_line(str(value))


def numbers_of(dataset: Any, keyword: str, count: int) -> NDArray[np.float64] | None:
    """Exactly `count` finite numbers, None when the element is absent."""
    value = value_of(dataset, keyword)
    if value is None:
        return None
    try:
        numbers = np.asarray([_float(part) for part in value], dtype=np.float64)
    except (TypeError, ValueError):
        numbers = np.empty(0)
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise ScanError(f"{keyword} is {shown(value)[:80]!r}; expected {count} numbers, fix the header")
    return numbers


def number_of(dataset: Any, keyword: str, *, default: float | None) -> float | None:
    """One finite number."""
    value = value_of(dataset, keyword)
    if value is None:
        return default
    try:
        number = _float(value)
    except (TypeError, ValueError):
        number = np.nan
    if not np.isfinite(number):
        raise ScanError(f"{keyword} is {shown(value)[:80]!r}; expected a number, fix the header")
    return number


def whole_number(dataset: Any, keyword: str, *, default: int) -> int:
    """One whole number."""
    number = number_of(dataset, keyword, default=default)
    assert number is not None
    return int(number)


def first_item(dataset: Any, keyword: str) -> Any:
    """The first item of a sequence, None when there is none."""
    sequence = value_of(dataset, keyword)
    return sequence[0] if sequence is not None and hasattr(sequence, "__len__") and len(sequence) else None
