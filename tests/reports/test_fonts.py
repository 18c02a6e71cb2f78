"""Letters of any script are drawn where a font has them, and named where none has."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from PIL import Image

from slicesight.reports import fonts
from slicesight.reports.figure import save_figure
from slicesight.reports.fonts import FALLBACKS, FIRST, find_families, shorten, wrap

IDEOGRAPH = "\u7573"


@pytest.fixture
def own_font(tmp_path, monkeypatch) -> str:
    """A font that holds one ideograph, a filled square, under the name of a usual one."""
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen
    from matplotlib import font_manager

    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 800), (800, 800), (800, 0)):
        pen.lineTo(corner)
    pen.closePath()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "square"])
    builder.setupCharacterMap({ord(IDEOGRAPH): "square"})
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "square": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (900, 0), "square": (900, 0)})
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": FALLBACKS[0], "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(tmp_path / "own.ttf")
    monkeypatch.setattr(font_manager.fontManager, "ttflist", list(font_manager.fontManager.ttflist))
    font_manager.fontManager.addfont(tmp_path / "own.ttf")
    return FALLBACKS[0]


@pytest.fixture
def figure():
    from matplotlib.figure import Figure

    return Figure(figsize=(3, 2), facecolor="white")


def test_a_letter_is_taken_from_the_font_that_has_it(own_font, figure, tmp_path, caplog):
    figure.text(0.3, 0.3, IDEOGRAPH, size=60)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_figure(figure, tmp_path / "a.png")
    ink = np.asarray(Image.open(tmp_path / "a.png").convert("L")) < 100
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    assert ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].mean() > 0.95  # the square, and no empty box
    assert not caplog.records


def test_a_letter_that_no_font_has_is_named_once_in_the_picture_and_in_the_log(figure, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(fonts, "FALLBACKS", ())
    figure.text(0.1, 0.6, f"{IDEOGRAPH}{IDEOGRAPH}")
    figure.text(0.1, 0.3, IDEOGRAPH)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_figure(figure, tmp_path / "a.png")
    assert [record.getMessage().count("U+7573") for record in caplog.records] == [1]
    assert "install a font" in caplog.text
    assert [text.get_text() for text in figure.texts].count("no font here draws U+7573") == 1


def test_texts_that_the_first_font_draws_keep_it(figure, tmp_path):
    words = figure.text(0.1, 0.5, "Größe, печень, כבד, كبد")
    before = words.get_fontfamily()
    save_figure(figure, tmp_path / "a.png")
    assert words.get_fontfamily() == before
    assert find_families(set("Größe, печень, כבד, كبد") - {" "}) == ([FIRST], set())


def test_wide_letters_are_wrapped_at_half_the_number():
    assert wrap("a" * 30, 20) == ["a" * 20, "a" * 10]
    assert wrap(IDEOGRAPH * 30, 20) == [IDEOGRAPH * 10] * 3


def test_a_long_text_without_spaces_is_shortened_and_not_lost():
    assert shorten("one two three", 10) == "one [...]"
    assert shorten(IDEOGRAPH * 30, 20) == IDEOGRAPH * 9 + "…"
    assert shorten(IDEOGRAPH * 5, 20) == IDEOGRAPH * 5
    assert shorten("x" * 30, 20) == "x" * 19 + "…"
