"""How are an answer and its choices written so that they can be compared? Plain letters, plain words."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

_INVISIBLE = dict.fromkeys((0x200B, 0x200C, 0x200D, 0x2060, 0xFEFF, 0xAD))
_SAME = str.maketrans(
    {"’": "'", "‘": "'", "“": '"', "”": '"', "。": ". ", "、": ", ", "–": "-", "—": "-", "−": "-", "→": "->"}
    | dict.fromkeys("【「『〔〖[{", "(")
    | dict.fromkeys("】」』〕〗]}", ")")
)
_LATEX = re.compile(r"\\(?:text|textbf|mathbf|mathrm|mathsf|bm|bf|rm|fbox)\s*\{([^{}]*)\}|\\[()\[\]]|\$")
_MARKDOWN = re.compile(r"```\w*|`|\*+|~~|(?<!\w)_+|_+(?!\w)|^[ \t]*(?:#+|>+(?!\s*\d)|[-•‣])(?=\s)", re.MULTILINE)
_SQUARED = ((0x1F170, 0x41), (0x1F150, 0x41), (0x1F1E6, 0x41))
_HAN = re.compile(r"([\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af])")


def plain_text(text: str) -> str:
    """Latin letters in their plain form, without marks of Markdown and LaTeX."""
    text = "".join(_letter(sign) for sign in text)
    text = unicodedata.normalize("NFKC", text).translate(_INVISIBLE)
    text = _LATEX.sub(lambda found: found.group(1) or "", text)
    text = _MARKDOWN.sub(" ", text).translate(_SAME)
    return re.sub(r"\s*\n\s*", "\n", re.sub(r"[^\S\n]+", " ", text)).strip()


def _letter(sign: str) -> str:
    """White on black letters and flags' letters as letters; NFKC knows the others."""
    code = ord(sign)
    for first, plain in _SQUARED:
        if first <= code < first + 26:
            return chr(plain + code - first)
    return sign


@lru_cache(maxsize=2**12)
def tokens(text: str, *, keep_ends: bool = False) -> str:
    """Lower-case words, numbers with their decimals, signs of comparison; Chinese and Japanese sign by sign.

    keep_ends: ends of clauses stay, so that what is denied before one is not denied after it.
    """
    text = unicodedata.normalize("NFKC", text).translate(_SAME).casefold()
    text = _HAN.sub(r" \1 ", text)
    text = re.sub(r"(?<=\d),(?=\d)", ".", text)
    text = re.sub(r"(?<!\d)\.|\.(?!\d)", " . " if keep_ends else " ", text)
    kept = r"[^\w\s/+.<>=%'-]" if not keep_ends else r"[^\w\s/+.<>=%',;!?-]"
    text = re.sub(kept, " ", text)
    text = re.sub(r"([<>=])", r" \1 ", text)
    return " ".join(text.split())


@lru_cache(maxsize=2**12)
def flexible(choice: str) -> str:
    """A pattern of the choice's words with any space between them."""
    text = unicodedata.normalize("NFKC", choice).translate(_SAME).strip(" .")
    return r"\s+".join(re.escape(word) for word in text.split())
