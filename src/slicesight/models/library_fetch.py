"""How do a model's files come by its name where the library itself fetches them, when the hub's quick storage fails?

`from_pretrained` of a name on the hub takes hf_xet for every file that the hub keeps in Xet storage, where that package
is installed (huggingface_hub 2.4, `file_download._download_to_tmp_and_move`), and has no way back: a storage that is
out of reach ends in a RuntimeError, one that is silent is waited for some ten minutes. The same files are sent over
plain HTTP (`models/importers/hub.py` takes nothing else), and so they come here after a failure, with a line that says
so. Limits of patience and HF_HUB_DISABLE_XET=1 are the libraries' own variables, obeyed where they are set.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from typing import TypeVar
from unittest.mock import patch

Found = TypeVar("Found")
log = logging.getLogger(__name__)
PATIENCE = {"HF_XET_CLIENT_READ_TIMEOUT": "30s", "HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "2"}
"""hf_xet's own are two minutes of silence, five times."""


def fetched(load: Callable[[], Found], *, name: str) -> Found:
    """What `load` reads by the library, which may fetch the files of `name` first.

    Raises:
        Exception: as `load` does, once more without Xet where that was what failed.
    """
    from huggingface_hub import constants

    for variable, value in PATIENCE.items():
        os.environ.setdefault(variable, value)
    try:
        return load()
    except Exception as error:
        if constants.HF_HUB_DISABLE_XET or not _is_of_xet(error):
            raise
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        log.warning("%s: the hub's Xet storage failed (%s); its files come over plain HTTP, more slowly", name, reason)
    with patch.object(constants, "HF_HUB_DISABLE_XET", True):
        return load()


def _is_of_xet(error: BaseException) -> bool:
    """Whether it was raised in the library's transfer by Xet; hf_xet has no error of its own kind."""
    return any("xet_get" in _functions_of(one) for one in _chain_of(error))


def _chain_of(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _functions_of(error: BaseException) -> set[str]:
    names, place = set(), error.__traceback__
    while place is not None:
        names.add(place.tb_frame.f_code.co_name)
        place = place.tb_next
    return names
