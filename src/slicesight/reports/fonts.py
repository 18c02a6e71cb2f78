"""Which fonts draw a figure's text, whatever its script, and what is said of a letter that no font here has?

DejaVu Sans, which matplotlib brings, draws Latin, Greek, Cyrillic, Hebrew and Arabic. For other scripts the usual fonts
of Linux, Windows and macOS are looked for; matplotlib takes each letter from the first family that has it.
"""

from __future__ import annotations

import logging
import textwrap
import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIRST = "DejaVu Sans"
FALLBACKS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "Noto Sans SC", "Noto Sans JP", "Noto Sans KR",
    "Source Han Sans SC", "Source Han Sans", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Droid Sans Fallback",
    "IPAexGothic", "IPAGothic", "TakaoGothic", "NanumGothic", "AR PL UMing CN",
    "Microsoft YaHei", "SimHei", "Yu Gothic",
    "Malgun Gothic", "PingFang SC", "Hiragino Sans", "Apple SD Gothic Neo", "Noto Sans Devanagari", "Lohit Devanagari",
    "Mangal", "Nirmala UI", "Devanagari MT", "Noto Sans Arabic", "Noto Sans Hebrew", "Noto Sans Bengali",
    "Noto Sans Tamil", "Noto Sans Thai", "FreeSans", "FreeSerif", "Noto Sans", "Arial Unicode MS", "Unifont",
)  # fmt: skip
MAX_NAMED = 8


def wrap(text: str, width: int) -> list[str]:
    """Lines of at most `width` narrow letters; those of East Asia are twice as wide."""
    return textwrap.wrap(text, _letters_in(width, text))


def shorten(text: str, width: int) -> str:
    """As `textwrap.shorten`, but a text without spaces is cut and not lost."""
    num_letters, text = _letters_in(width, text), " ".join(text.split())
    if len(text) > num_letters and max(map(len, text.split())) > num_letters // 2:
        return text[: num_letters - 1] + "…"
    return textwrap.shorten(text, num_letters)


def _letters_in(width: int, text: str) -> int:
    is_wide = any(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    return width // 2 if is_wide else width


@contextmanager
def fonts_for(figure: Figure) -> Iterator[None]:
    """While the figure is drawn, its texts may take letters from every font that has them.

    What no font has is named once, in the figure and in the log.
    """
    from matplotlib.text import Text

    texts = [text for text in figure.findobj(Text) if text.get_text()]
    wanted = {letter for text in texts for letter in text.get_text() if letter.isprintable() and letter != " "}
    families, missing = find_families(wanted)
    if len(families) > 1:
        for text in texts:
            text.set_fontfamily(families)
    if not missing:
        yield
        return
    named = ", ".join(f"{letter} (U+{ord(letter):04X})" for letter in sorted(missing)[:MAX_NAMED])
    more = f" and {len(missing) - MAX_NAMED} more" if len(missing) > MAX_NAMED else ""
    codes = ", ".join(f"U+{ord(letter):04X}" for letter in sorted(missing)[:MAX_NAMED])
    figure.text(0.005, 0.002, f"no font here draws {codes}{more}", size=7, color="#c8372d", va="bottom")
    logging.getLogger(__name__).warning(
        "no font here draws %s%s, which stand as boxes in the picture; install a font that has them, such as Noto Sans",
        named,
        more,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def find_families(wanted: set[str]) -> tuple[list[str], set[str]]:
    """The families that draw these letters, DejaVu Sans first, and the letters that none has."""
    from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font

    installed = {entry.name for entry in fontManager.ttflist}
    families, missing = [FIRST], set(wanted)
    for family in (FIRST, *FALLBACKS):
        if not missing:
            break
        if family in installed:
            has = get_font(findfont(FontProperties(family=family), fallback_to_default=False)).get_charmap()
            drawn = {letter for letter in missing if ord(letter) in has}
            families += [family] if drawn and family != FIRST else []
            missing -= drawn
    return families, missing
