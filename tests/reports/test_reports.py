"""The picture, the page and the terminal report: what must be seen is there, and nothing from outside."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from slicesight.inference.answers import Answer, rank_slices
from slicesight.models.card import RESEARCH_NOTICE, ModelCard
from slicesight.reports.ask import AnswerReport, print_report
from slicesight.reports.evidence import EVIDENCE_CAVEAT, KnownTruth, describe, summarise
from slicesight.reports.figure import height_over_width
from slicesight.reports.terminal import answer_block, bar
from slicesight.volumes.grid import GridSpec, to_grid

QUESTION = r"Where is the <cyst> & what does it cost in $\nosuchmacro$?"


@pytest.fixture(scope="module")
def consultation(phantom) -> AnswerReport:
    grid = to_grid(phantom.volume, GridSpec(num_slices=16, height=32, width=48))
    scores = np.full(16, 0.02)
    scores[[4, 5]] = 0.4, 0.32
    scores /= scores.sum()
    answer = Answer(
        question=QUESTION, text="In the liver.", scores=tuple(scores), slices=rank_slices(scores, grid=grid)
    )
    return AnswerReport(
        volume=replace(phantom.volume, is_synthetic=False, warnings=("the table was not removed",)),
        grid=grid,
        card=ModelCard(name="phantom-tiny", trained_on="synthetic", summary="small"),
        answers=[answer, replace(answer, question="Which phase is this?")],
        truths=[KnownTruth(answer="In the spleen.", grid_slices=(4, 5, 6), is_right=False), None],
    )


@pytest.fixture(scope="module")
def page(consultation, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("page") / "report.html"
    consultation.write_html(path)
    return path.read_text(encoding="utf-8")


class _Elements(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words += data

    def of(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        return [
            attributes
            for name, attributes in self.found
            if name == tag
            and all((attributes.get(key.rstrip("_")) or "").split()[:1] == [value] for key, value in wanted.items())
        ]


def test_page_asks_no_address_outside_itself(page):
    for tag, attributes in _Elements(page).found:
        for name in ("src", "href", "action", "data"):
            address = attributes.get(name)
            assert address is None or address.startswith(("#", "data:")), (tag, address)
    assert not re.search(r"https?://|@import|url\(", page)


def test_page_holds_every_grid_slice_once_and_eight_pictures_per_answer(page):
    elements = _Elements(page)
    assert len(elements.of("image")) == 16
    assert len(elements.of("button", class_="tile")) == 2 * 8
    assert len(elements.of("rect", class_="s")) == 2 * 16


def test_page_says_question_answer_truth_evidence_warning_and_notice(page, consultation):
    words = _Elements(page).words
    numbers = [n for piece in consultation.grid.slices[4:6] for n in piece.source_slices]
    for said in (
        QUESTION,
        "In the liver.",
        "wrong; the truth: In the spleen.",
        "note: the table was not removed",
        f"slices {min(numbers)}–{max(numbers)}",
        "phantom-tiny was trained on synthetic CT only",
        RESEARCH_NOTICE,
        "an even spread, 1/16",
    ):
        assert said in words, said


def test_page_marks_the_truths_slices_only_where_known(page):
    first, second = page.split("<article ")[1:]
    assert first.count('class="t"') == 3
    assert second.count('class="t"') == 0


def test_page_names_the_sides_of_the_patient(page, consultation):
    assert 'class="side" x="4"' in page
    blind = replace(
        consultation.grid, slices=tuple(replace(piece, position_mm=None) for piece in consultation.grid.slices)
    )
    from slicesight.reports.html import render_page

    without = render_page(replace(consultation, grid=blind))
    assert 'class="side"' not in without


def test_bars_of_the_page_are_as_high_as_the_scores(page, consultation):
    bars = _Elements(page).of("rect", class_="s")[:16]
    heights = np.array([float(attributes["height"]) for attributes in bars])
    scores = np.array(consultation.answers[0].scores)
    np.testing.assert_allclose(heights / heights.max(), scores / scores.max(), atol=2e-3)
    tops = np.array([float(attributes["y"]) for attributes in bars])
    assert tops.min() == 0
    np.testing.assert_allclose(tops + heights, 54, atol=0.02)


@pytest.mark.browser
def test_a_click_on_a_slice_enlarges_it(page, tmp_path):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no Chromium here: install the package chromium")
    click = "<script>document.querySelectorAll('.tile')[2].click()</script></body>"
    (tmp_path / "clicked.html").write_text(page.replace("</body>", click), encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    command = [
        chromium,
        *flags,
        f"--user-data-dir={tmp_path / 'profile'}",
        "--dump-dom",
        f"file://{tmp_path}/clicked.html",
    ]
    dom = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    dialog = dom[dom.index("<dialog") : dom.index("</dialog>")]
    assert re.match(r"<dialog[^>]* open", dialog)
    assert 'href="#slice4"' in dialog  # the heaviest of the third pair of slices
    assert "slices " in dialog


def test_picture_is_a_png_that_shows_slices_and_the_even_line(consultation, tmp_path):
    consultation.write_png(tmp_path / "report.png")
    with Image.open(tmp_path / "report.png") as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGB")).astype(int)
    even, truth = np.array([0xC8, 0x37, 0x2D]), np.array([0x0D, 0x8A, 0x6A])
    for colour, length in ((even, 500), (truth, 150)):  # a dashed line across the bars; a mark three bars wide
        assert (np.abs(pixels - colour).sum(axis=2) < 100).sum(axis=1).max() > length
    assert (pixels.sum(axis=2) < 30).mean() > 0.02  # the air around the patient


def test_pictures_keep_the_scans_true_proportions(phantom):
    grid = to_grid(phantom.volume, GridSpec(num_slices=8, height=64, width=32))
    (z0, z1), (y0, y1), (x0, x1) = grid.box
    _, down, across = phantom.volume.spacing_mm
    assert height_over_width(grid) == pytest.approx((y1 - y0) * down / ((x1 - x0) * across), rel=1e-6)
    assert (z0, z1) != (y0, y1)


def test_json_never_holds_what_other_programs_cannot_read(consultation):
    broken = replace(consultation.answers[0], scores=(float("nan"),) * 16)
    with pytest.raises(ValueError, match="JSON"):
        replace(consultation, answers=[broken]).json_text()


def test_terminal_report_fits_eighty_columns(consultation):
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(answer_block(consultation.answers[0]))
    lines = console.export_text().splitlines()
    assert max(len(line) for line in lines) <= 80
    assert sum("weighs most" in line for line in lines) == 1
    assert any("the other 14" in line and "even: 0.06 each" in line for line in lines)


def test_bars_of_the_terminal_are_proportional():
    assert bar(1.0, widest=1.0) == "████████"
    assert bar(0.5, widest=1.0) == "████    "
    assert bar(1 / 64, widest=1.0) == "▏       "
    assert bar(0.0, widest=1.0) == "        "


def test_a_model_without_slice_scores_still_gets_its_reports(consultation, tmp_path):
    bare = replace(consultation, answers=[Answer(question="Q?", text="A.", scores=(), slices=())], truths=[])
    bare.write_html(tmp_path / "a.html")
    bare.write_png(tmp_path / "a.png")
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(answer_block(bare.answers[0]))
    assert "does not weigh slices" in console.export_text()
    assert "does not weigh slices" in (tmp_path / "a.html").read_text()


CUT = "The answer was cut at 160 tokens; its end is missing."


def _printed(report: AnswerReport) -> str:
    console = Console(width=2000, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_report(console, report)
    return console.export_text()


def _drawn(report: AnswerReport) -> str:
    from slicesight.reports.figure import draw_report

    figure = draw_report(report)
    texts = [*figure.texts, *(text for axes in figure.axes for text in axes.texts)]
    return "\n".join(text.get_text() for text in texts)


def _paged(report: AnswerReport) -> str:
    from slicesight.reports.html import render_page

    return _Elements(render_page(report)).words


def _stored(report: AnswerReport) -> str:
    return json.dumps(json.loads(report.json_text()), ensure_ascii=False)


@pytest.mark.parametrize("render", [_printed, _drawn, _paged, _stored])
def test_every_report_says_that_an_answer_was_cut_and_only_then(consultation, render):
    whole = render(consultation)
    cut = render(
        replace(
            consultation,
            answers=[replace(consultation.answers[0], cut_at=160), consultation.answers[1]],
        )
    )
    if render is _stored:
        assert [one["finish_reason"] for one in json.loads(cut)["answers"]] == ["length", "stop"]
        assert [one["cut_at"] for one in json.loads(cut)["answers"]] == [160, None]
        assert '"length"' not in whole
    else:
        assert cut.count(CUT) == 1
        assert CUT not in whole


@pytest.mark.parametrize("render", [_printed, _drawn, _paged, _stored])
def test_every_report_says_what_a_score_does_not_say_and_carries_the_notices(consultation, render):
    words = render(consultation)
    assert EVIDENCE_CAVEAT in words
    assert RESEARCH_NOTICE in words
    for warning in consultation.warnings:
        assert warning in words
    if render is not _printed:  # where the ranges stand in a table with bars
        assert describe(summarise(consultation.answers[0])) in words


@pytest.mark.parametrize("render", [_printed, _drawn, _paged, _stored])
def test_every_report_says_that_an_answer_is_none_of_the_choices(consultation, render):
    question = "Which phase is this? Choices: A. arterial phase B. venous phase"
    outside = replace(consultation.answers[0], question=question, text="Perhaps.", choice="B. venous phase")
    inside = replace(outside, text="A. arterial phase", choice=None)
    words = [render(replace(consultation, answers=[one], truths=[])) for one in (outside, inside)]
    note = "names none of the question's choices, or several. Held to them, the model says B. venous phase"
    if render is _stored:
        assert [json.loads(one)["answers"][0]["within_choices"] for one in words] == [False, True]
        assert json.loads(words[0])["answers"][0]["choice"] == "B. venous phase"
    else:
        assert [note in one for one in words] == [True, False]


def test_lines_of_a_wide_console_are_not_filled_with_spaces(consultation):
    bare = replace(consultation.answers[0], scores=(), slices=())
    printed = _printed(replace(consultation, answers=[*consultation.answers, bare], truths=[]))
    assert max(map(len, printed.splitlines())) < 250
