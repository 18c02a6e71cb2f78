"""A model of several planes is asked: every cut with its score, its plane, its picture and its place."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from slicesight.cli.ask import run_ask
from slicesight.cli.scans import AskOptions
from slicesight.data.manifest import Conversation
from slicesight.errors import InputError, ModelError
from slicesight.evaluation.faithfulness import measure
from slicesight.evaluation.predict import MODEL, _rows_of
from slicesight.inference.answers import Answer, rank_slices
from slicesight.inference.feature_cache import FeatureCache
from slicesight.io.writers import write_dicom
from slicesight.phantoms.folder import phantom_case
from slicesight.reports.ask import AnswerReport
from slicesight.reports.evidence import KnownTruth, peak_slice, place_name, reading_line, slice_name, summarise
from slicesight.reports.figure import draw_report, pick_pictures
from slicesight.reports.html import render_page
from slicesight.reports.truth import shown_slices
from slicesight.volumes.volume import PLANES

QUESTIONS = [
    "Is the liver enlarged?",
    "What is shown?",
    "Which phase is this? Choices: A. arterial phase B. venous phase",
]


@pytest.fixture
def predictor(make_predictor):
    return make_predictor(planes=list(PLANES))


@pytest.fixture
def grid(predictor, phantom):
    return predictor.grid(phantom.volume)


def answer_with(grid, heavy) -> Answer:
    """An answer that rests on the slices of {number: score}."""
    scores = np.full(len(grid.scored_slices), 0.001)
    for number, score in heavy.items():
        scores[number] = score
    scores = tuple((scores / scores.sum()).tolist())
    return Answer(question="Where?", text="Here.", scores=scores, slices=rank_slices(scores, grid=grid))


def test_the_scheduler_says_what_generate_says(predictor, grid, answer_together, generate_alone):
    encoded = predictor.encode(grid)
    together, _ = answer_together(predictor, [(encoded, QUESTIONS)])
    assert together == [generate_alone(predictor, encoded, question) for question in QUESTIONS]
    assert len({tuple(ids) for ids in together}) > 1


def test_every_cut_of_every_plane_is_ranked_with_its_own_score(predictor, phantom):
    encoded = predictor.encode(phantom.volume)
    answers = predictor.ask(encoded, QUESTIONS, max_new_tokens=4)
    inputs = predictor.processor(QUESTIONS, volume_index=[0] * 3)
    expected = predictor.model.score_slices(encoded.features, **inputs)[:, 0].tolist()
    for answer, scores in zip(answers, expected, strict=True):
        assert answer.scores == pytest.approx(scores, rel=1e-4)
        assert sorted(found.grid_slice for found in answer.slices) == list(range(24))
        for found in answer.slices:
            assert found.score == answer.scores[found.grid_slice]
            assert found.plane == PLANES[found.grid_slice // 8]
            assert found.position_mm == encoded.grid.scored_slices[found.grid_slice].position_mm


def test_answers_by_beams_hold_every_plane_too(predictor, phantom):
    (answer,) = predictor.ask(phantom.volume, "What is shown?", max_new_tokens=3, num_beams=2)
    assert len(answer.slices) == 24


def test_a_grid_made_elsewhere_gets_the_models_planes(predictor, grid):
    elsewhere = replace(grid, planes=())
    assert predictor.encode(elsewhere).grid.planes == PLANES
    assert predictor.ask(elsewhere, "Why?", max_new_tokens=3) == predictor.ask(grid, "Why?", max_new_tokens=3)


def test_a_model_of_one_plane_scores_one_plane_of_any_grid(make_predictor, grid):
    one = make_predictor()
    encoded = one.encode(grid)
    assert encoded.grid.planes == ()
    assert "planes" not in encoded.grid.receipt["grid"]
    (answer,) = one.ask(encoded, "Why?", max_new_tokens=3)
    assert [found.plane for found in answer.slices] == [None] * 8


def test_another_stack_than_an_axial_one_is_refused_in_one_line(make_predictor, predictor, phantom):
    with pytest.raises(InputError, match="leave the plane out"):
        predictor.grid(phantom.volume, plane="coronal")
    with pytest.raises(InputError, match="plane sagittal"):
        predictor.encode(make_predictor().grid(phantom.volume, plane="sagittal"))


def test_a_processor_that_stacks_another_plane_is_refused(make_predictor, predictor):
    predictor.processor.grid = {**predictor.processor.grid, "plane": "coronal"}
    with pytest.raises(ModelError, match="plane: axial"):
        type(predictor)(model=predictor.model, processor=predictor.processor, card=predictor.card)


def test_a_scan_seen_before_is_not_encoded_again(make_predictor, phantom):
    predictor = make_predictor(planes=list(PLANES))
    predictor.cache = FeatureCache(memory_bytes=2**24)
    first = predictor.ask(phantom.volume, QUESTIONS, max_new_tokens=3)
    assert predictor.ask(phantom.volume, QUESTIONS, max_new_tokens=3) == first
    assert (predictor.cache.hits, predictor.cache.misses) == (1, 1)
    other = make_predictor(planes=list(PLANES[::-1]))
    other.cache = predictor.cache
    assert other.ask(phantom.volume, QUESTIONS, max_new_tokens=3)[0].slices[0].plane in PLANES
    assert (predictor.cache.hits, predictor.cache.misses) == (1, 2)


def test_names_begin_with_the_plane_and_cuts_count_within_it(grid):
    pieces = grid.scored_slices
    numbers = pieces[3].source_slices
    assert slice_name(pieces, 3) == f"axial slices {min(numbers)}–{max(numbers)}"
    assert slice_name(pieces, 8 + 5) == "coronal cut 5 of 8"
    assert slice_name(pieces, 16, 17) == "sagittal cuts 0–1 of 8"
    for number, axis in ((3, 2), (13, 1), (16, 0)):
        assert place_name(pieces, number) == f"{'xyz'[axis]} {pieces[number].position_mm[axis]:.0f} mm"
    step = pieces[17].position_mm[0] - pieces[16].position_mm[0]
    low, high = pieces[16].position_mm[0] - step / 2, pieces[17].position_mm[0] + step / 2
    assert place_name(pieces, 16, 17) == f"x {low:.0f}…{high:.0f} mm"
    assert reading_line(grid).endswith("read as 8×32×32, cut axial, coronal and sagittal")


def test_neighbours_are_joined_only_within_a_plane(grid):
    evidence = summarise(answer_with(grid, {6: 0.2, 7: 0.2, 8: 0.3, 12: 0.1}))
    assert [found.grid_slices for found in evidence.ranges] == [(6, 7), (8, 8), (12, 12)]
    assert [found.name.split()[0] for found in evidence.ranges] == ["axial", "coronal", "coronal"]
    assert evidence.even_share == 1 / 24


def test_each_plane_has_as_many_pictures_and_the_peak_is_among_them(grid):
    answer = answer_with(grid, {1: 0.1, 13: 0.5, 20: 0.2})
    picked = pick_pictures(answer, grid=grid)
    assert [number // 8 for number in picked] == [0] * 3 + [1] * 3 + [2] * 3
    assert {1, 13, 20} <= set(picked)
    assert peak_slice(answer) == 13


def test_the_truth_is_marked_in_the_acquired_plane_only(grid, phantom):
    pair = Conversation(
        task="open", topic="organ", question="?", answer="x", source_slices=phantom.truth.findings[0].source_slices
    )
    shown = shown_slices(pair, grid=grid)
    assert shown == grid.grid_slices_of(pair.source_slices)
    assert 0 < len(shown) < 8


@pytest.fixture
def consultation(predictor, grid, phantom):
    answer = answer_with(grid, {1: 0.1, 13: 0.5, 20: 0.2})
    truth = KnownTruth(answer="There.", grid_slices=(1, 2), is_right=False)
    return AnswerReport(volume=phantom.volume, grid=grid, card=predictor.card, answers=[answer], truths=[truth])


def test_json_names_the_plane_of_each_slice_and_the_planes_of_the_scan(consultation, make_predictor, phantom):
    document = json.loads(consultation.json_text())
    assert document["scan"]["grid"]["planes"] == list(PLANES)
    assert document["answers"][0]["slices"][0]["plane"] == "coronal"
    assert document["answers"][0]["slices"][0]["grid_slice"] == 13
    one = make_predictor()
    bare = replace(
        consultation, grid=one.grid(phantom.volume), answers=one.ask(phantom.volume, "Why?", max_new_tokens=2)
    )
    assert '"plane"' not in json.dumps(bare.document()["answers"])


def test_page_shows_a_chart_per_plane_and_each_planes_own_sides(consultation, grid):
    page = render_page(consultation)
    charts = re.findall(r"<figure>.*?</figure>", page, flags=re.S)
    assert [re.search(r"<figcaption>(\w+)", chart)[1] for chart in charts] == list(PLANES)
    assert [chart.count('class="t"') for chart in charts] == [2, 0, 0]
    for number, chart in enumerate(charts):
        assert [int(i) for i in re.findall(r'data-slice="(\d+)"', chart)] == list(range(8 * number, 8 * number + 8))
    pictures = re.findall(r'<g id="slice(\d+)">(.*?)</g>', page, flags=re.S)
    assert len(pictures) == 24
    letters = ["".join(re.findall(r'class="side"[^>]*>(\w)<', picture)) for _, picture in pictures]
    assert letters == ["RLAP"] * 8 + ["RLSI"] * 8 + ["APSI"] * 8
    heights = [re.search(r'height="(\d+)"', picture)[1] for _, picture in pictures[::8]]
    tiles = re.findall(r'data-slice="(\d+)"><svg viewBox="0 0 240 (\d+)"', page)
    assert len(tiles) == 9
    assert all(height == heights[int(number) // 8] for number, height in tiles)
    assert "coronal cut 5 of 8" in page
    assert "1/24" in page
    assert "axial slices that show the truth; where it lies in other planes is not known" in page


def test_picture_shows_a_block_of_bars_per_plane_under_pictures_of_that_plane(consultation, grid):
    figure = draw_report(consultation)
    blocks = [axes for axes in figure.axes if axes.get_xlabel() in PLANES]
    assert [axes.get_xlabel() for axes in blocks] == list(PLANES)
    shown = [axes for axes in figure.axes if axes.images]
    words = [[text.get_text() for text in axes.texts] for axes in shown]
    assert [said[:2] for said in words] == [["R", "L"]] * 6 + [["A", "P"]] * 3
    for place, axes in enumerate(shown):
        block = blocks[place // 3].get_position()
        assert block.x0 - 0.01 <= axes.get_position().x0 < axes.get_position().x1 <= block.x1 + 0.02
        number = pick_pictures(consultation.answers[0], grid=grid)[place]
        stack, index = grid.scored_slice(number)
        np.testing.assert_array_equal(axes.images[0].get_array(), stack.voxels[index])
    heights = [bar.get_height() for axes in blocks for bar in axes.patches if bar.get_height() > 0]
    assert heights == pytest.approx(list(consultation.answers[0].scores))


def test_faithfulness_of_several_planes_is_refused_in_one_line(predictor):
    with pytest.raises(InputError, match="one plane"):
        measure(predictor, source=None)


def test_evidence_is_not_scored_where_the_truth_is_known_of_one_plane_only(predictor, make_predictor, phantom):
    case = phantom_case(phantom, seed=7, index=0, volume="v.nii.gz")
    prompts = [pair.prompt for pair in case.conversations]
    for asked, is_scored in ((predictor, False), (make_predictor(), True)):
        grid = asked.grid(phantom.volume)
        answers = asked.ask(grid, prompts, max_new_tokens=1)
        rows = _rows_of(case, answers, system=MODEL, grid=replace(grid, planes=()))
        assert any(row.true_slices for row in rows) is is_scored


def test_ask_writes_every_report_from_a_dicom_folder(predictor, phantom, tmp_path, capsys):
    predictor.model.save_pretrained(tmp_path / "model")
    predictor.processor.save_pretrained(tmp_path / "model")
    write_dicom(phantom.volume, tmp_path / "scan")
    files = {name: tmp_path / f"report.{name}" for name in ("json", "html", "png")}
    run_ask(AskOptions(scan=tmp_path / "scan", questions=["Why?"], model=str(tmp_path / "model"), **files))
    assert "cut axial, coronal and sagittal" in capsys.readouterr().out
    assert all(path.stat().st_size > 5000 for path in files.values())
    (answer,) = json.loads(files["json"].read_text())["answers"]
    for found in answer["slices"]:
        assert len(found["sop_instance_uids"]) == len(found["source_slices"]) > 0
        if found["plane"] != "axial":
            assert len(found["source_slices"]) > phantom.volume.num_source_slices // 2


def test_without_geometry_no_plane_gets_millimetres_or_sides(predictor, phantom):
    volume = replace(phantom.volume, affine_lps=None, spacing_mm=None, slice_positions_mm=None)
    (answer,) = predictor.ask(volume, "Why?", max_new_tokens=2)
    assert all(found.position_mm is None for found in answer.slices)
    report = AnswerReport(volume=volume, grid=predictor.grid(volume), card=predictor.card, answers=[answer])
    page = render_page(report)
    assert 'class="side"' not in page
    assert "coronal cut" in page
