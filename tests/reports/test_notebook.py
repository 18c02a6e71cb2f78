"""What a notebook shows: small, whole, escaped, and nothing that asks an address."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from slicesight.errors import InputError
from slicesight.evaluation.external import read_predictions
from slicesight.evaluation.score_sheet import ScoreSheet
from slicesight.evaluation.sheet import make_sheet, score_file, to_json
from slicesight.inference.answers import Answer, rank_slices
from slicesight.reports.notebook import middle_slice
from slicesight.volumes.grid import GridSpec, to_grid

HOSTILE = '<script>alert("x")</script> & <img src=x onerror=y>'


@pytest.fixture
def answer(phantom) -> Answer:
    grid = to_grid(phantom.volume, GridSpec(num_slices=16, height=16, width=16))
    scores = np.full(16, 0.02)
    scores[5] = 0.70
    return Answer(
        question="Where is the cyst?",
        text="In the liver.",
        scores=tuple(scores),
        slices=rank_slices(scores, grid=grid),
        confidence=0.83,
    )


class _Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.opened: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag != "img":
            self.opened.append(tag)
        for name, value in attrs:
            assert not name.startswith("on")
            assert name not in ("src", "href") or (value or "").startswith("data:image/jpeg;base64,")

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.opened.pop()

    def handle_endtag(self, tag):
        assert self.opened.pop() == tag

    def handle_data(self, data):
        self.words += data


def test_an_answer_shows_its_text_its_confidence_and_a_bar_per_slice(answer):
    shown = answer._repr_html_()
    page = _Tags(shown)
    assert not page.opened
    assert page.tags.count("rect") == 16
    for words in ("Where is the cyst?", "In the liver.", "confidence 0.83", "0.70", "Not a medical device"):
        assert words in page.words, words
    assert len(shown) < 8000
    named = re.search(r"#1f5fae\"><title>([^<]+)</title>", shown)
    assert named
    assert named[1].endswith("score 0.700")


def test_an_answer_that_is_held_back_says_why_and_what_it_would_have_said(answer):
    held = replace(answer, text="(held back)", would_say="In the spleen.", abstained="strange_scan", confidence=None)
    shown = _Tags(held._repr_html_()).words
    assert "it would have said “In the spleen.”" in shown


def test_an_answer_without_scores_has_no_bars_and_says_so(answer):
    shown = replace(answer, scores=(), slices=(), evidence="none", evidence_note="the server gives none")._repr_html_()
    assert "<svg" not in shown
    assert "The server gives none." in shown


@pytest.mark.parametrize("field", ["question", "text", "would_say", "confidence_note", "evidence_note"])
def test_words_of_a_model_or_a_user_are_escaped(answer, field):
    shown = replace(answer, **{field: HOSTILE}, confidence=None)._repr_html_()
    page = _Tags(shown)
    assert "script" not in page.tags
    assert "img" not in page.tags


def test_a_very_long_answer_is_cut_in_the_notebook(answer):
    assert len(replace(answer, text="liver " * 50_000)._repr_html_()) < 12_000


def test_a_volume_shows_three_small_pictures_in_the_patients_proportions(phantom):
    volume = replace(phantom.volume, warnings=(f"table not removed {HOSTILE}",))
    shown = volume._repr_html_()
    page = _Tags(shown)
    assert page.tags.count("img") == 3
    assert "script" not in page.tags
    assert "table not removed" in page.words
    assert "phantom" in page.words
    assert "R · axial · L" in page.words
    assert len(shown) < 40_000


def test_a_volume_without_geometry_names_no_side(phantom):
    bare = replace(phantom.volume, affine_lps=None, spacing_mm=None, slice_positions_mm=None)
    shown = bare._repr_html_()
    assert "? · axial · ?" in shown
    assert "sides may be swapped" in shown


def test_the_head_is_above_in_coronal_and_sagittal_pictures(scan):
    voxels = scan.voxels.copy()
    voxels[-1] = 900.0
    marked = replace(scan, voxels=voxels)
    for plane in ("coronal", "sagittal"):
        assert (middle_slice(marked, plane)[0] == 900.0).all()
    assert middle_slice(marked, "axial").shape == scan.shape[1:]


@pytest.fixture
def sheet(tmp_path) -> ScoreSheet:
    path = tmp_path / "predictions.jsonl"
    rows = [
        f'{{"id": "q{number}", "volume": "v{number // 2}", "task": "closed", "topic": "organ", "question": "Which?",'
        f' "choices": ["liver", "spleen"], "answer": "liver", "answer_choice": "A", "prediction": "A. liver"}}'
        for number in range(4)
    ]
    path.write_text("\n".join(rows) + "\n")
    return make_sheet(score_file(read_predictions(path)), system=HOSTILE)


def test_a_sheet_shows_its_tables_and_says_that_controls_are_missing(sheet):
    page = _Tags(sheet._repr_html_())
    assert "script" not in page.tags
    assert "closed acc." in page.words
    assert "100.00" in page.words
    assert "No controls" in page.words


@pytest.mark.parametrize(
    ("count", "said"), [(1, "one scan has no interval"), (3, "drawn from 3 scans, intervals are too narrow"), (10, "")]
)
def test_intervals_of_a_handful_of_scans_are_said_to_be_worth_little(sheet, count, said):
    words = _Tags(ScoreSheet({**sheet, "num_volumes": count})._repr_html_()).words
    assert ("Too few scans" in words) == bool(said)
    assert said in words


def test_a_sheet_is_the_same_dict_after_writing_and_reading(sheet, tmp_path):
    (tmp_path / "sheet.json").write_text(to_json(sheet))
    again = ScoreSheet.read(tmp_path)
    assert to_json(again) == to_json(sheet)
    assert again._repr_html_() == sheet._repr_html_()


@pytest.mark.parametrize("text", ["{}", '{"sheet": 7}', "[1]", "no json"])
def test_a_file_that_is_no_sheet_is_refused_in_one_line(text, tmp_path):
    file = tmp_path / "other.json"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        ScoreSheet.read(file)
    assert "expected" in str(caught.value)
    assert "\n" not in str(caught.value)
