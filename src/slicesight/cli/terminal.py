"""How does output survive a terminal that knows few letters, a full disk, or a reader that has gone?"""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
from contextlib import suppress
from typing import NoReturn

CANNOT_WRITE = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EIO)
PLAIN = {
    **dict.fromkeys("█▉▊▋▌▍▎▏", "#"),
    **dict.fromkeys("─━╌–—·", "-"),
    **dict.fromkeys("│┃╎", "|"),
    **dict.fromkeys("┌┐└┘├┤┬┴┼╭╮╰╯╷╵", "+"),
    **dict.fromkeys("‘’", "'"),
    **dict.fromkeys("“”„", '"'),
    "…": "...",
    "×": "x",
    "✓": "+",
    "✗": "x",
    "→": "->",
    "≤": "<=",
    "≥": ">=",
    "±": "+/-",
    "µ": "u",
    "•": "*",
    "°": " degrees",
    "²": "2",
    "³": "3",
}
"""What stands for a sign of ours where the terminal has none; letters of a user's text are escaped instead."""


def spell_for_any_terminal() -> None:
    """Let stdout and stderr write what their encoding cannot hold, in ASCII."""
    codecs.register_error("slicesight", _spelled)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="slicesight")


def _spelled(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    plain = [PLAIN.get(sign) or sign.encode("ascii", "backslashreplace").decode("ascii") for sign in signs]
    return "".join(plain), error.end


def size(num_bytes: int) -> str:
    """Bytes as a person reads them: GiB, or MiB below a tenth of one."""
    return f"{num_bytes / 2**30:.2f} GiB" if num_bytes >= 2**30 / 10 else f"{num_bytes / 2**20:.1f} MiB"


def complain(message: str) -> NoReturn:
    """One line on stderr, and exit code 2."""
    with suppress(OSError):
        sys.stderr.write(f"slicesight: {message}\n")
        sys.stderr.flush()
    sys.exit(2)


def silence_stdout() -> None:
    """Send what is still held for stdout nowhere, or the interpreter would complain about it at its end."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
