"""Scan, question, bars, millimetres: the way somebody goes who never opens a shell."""

from __future__ import annotations

import io
import itertools
import json
import math
import re

import numpy as np
import pytest

from browser.steps import answered, ask, click_bar, crosshair_mm, drag, open_scan, picture

pytestmark = pytest.mark.browser

STACKED_ALONG = {"sagittal": 0, "coronal": 1, "axial": 2}


@pytest.mark.parametrize("plane", STACKED_ALONG)
def test_a_click_on_a_bar_moves_the_crosshair_to_that_slices_millimetres(plane, open_page, served, file_of, phantom_of):
    scan = phantom_of(plane).volume
    page = open_page(served.address)
    volume = open_scan(page, file_of(plane))
    article = ask(page, "Which contrast phase is this?")
    slices = volume["grid_slices"]
    axis = STACKED_ALONG[plane]
    for index in (3, len(slices) - 5):
        click_bar(page, article, index, len(slices))
        page.mouse.move(5, 5)  # what is clicked stays when the pointer leaves
        assert crosshair_mm(page)[axis] == pytest.approx(slices[index]["position_mm"][axis], abs=0.06)
        assert shown_value(page) in values_round(scan, crosshair_mm(page)), "the picture is of another place"
        assert article.locator(".bars").get_attribute("aria-valuenow") == str(index)
        assert article.locator(".here").get_attribute("data-slice") == str(index)


def shown_value(page) -> float:
    return float(re.search(r"value\s*(\S+)", page.locator(".readout").inner_text()).group(1).replace("−", "-"))


def values_round(scan, position_mm: list[float]) -> set[float]:
    """The voxels whose centres lie within half a voxel of a place, by the scan's own affine."""
    z, y, x = (np.linalg.inv(scan.affine_lps) @ (*position_mm, 1))[:3]
    near = [{math.floor(index + 0.45), math.ceil(index - 0.45)} for index in (z, y, x)]
    return {float(scan.voxels[place]) for place in itertools.product(*near)}


def test_bars_show_the_scores_of_the_answer_and_its_ranges_lead_to_their_heaviest_slice(open_page, served, file_of):
    page = open_page(served.address)
    bodies = []

    def overhear(route):
        response = route.fetch()
        bodies.append(response.text())
        route.fulfill(response=response)

    page.route("**/v1/chat/completions", overhear)
    volume = open_scan(page, file_of("axial"))
    article = ask(page, "Which contrast phase is this?")
    events = [line[6:] for line in bodies[0].splitlines() if line.startswith("data: {")]
    said = [json.loads(event)["choices"][0]["delta"] for event in events if json.loads(event)["choices"]]
    evidence = next(delta for delta in said if delta.get("scores"))
    assert article.locator(".words").inner_text() == "".join(delta.get("content") or "" for delta in said)

    heights = article.locator("rect.bar").evaluate_all("bars => bars.map(bar => Number(bar.getAttribute('height')))")
    np.testing.assert_allclose(np.array(heights) / max(heights), np.array(evidence["scores"]) / max(evidence["scores"]))
    line = 1 - float(article.locator(".bars line").get_attribute("y1")) / 60
    assert line == pytest.approx(evidence["even_share"] / max(evidence["scores"]))

    heaviest = int(np.argmax(evidence["scores"]))
    first = article.locator(".ranges button").first
    assert first.locator(".name").inner_text() == evidence["ranges"][0]["name"]
    first.click()
    assert crosshair_mm(page)[2] == pytest.approx(volume["grid_slices"][heaviest]["position_mm"][2], abs=0.06)


def test_a_pointer_over_a_bar_only_looks_and_arrow_keys_go_slice_by_slice(open_page, served, file_of):
    page = open_page(served.address)
    volume = open_scan(page, file_of("axial"))
    article = ask(page, "Which contrast phase is this?")
    heights = [slice_["position_mm"][2] for slice_ in volume["grid_slices"]]
    before = crosshair_mm(page)
    box = article.locator(".bars").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 2.5 / len(heights), box["y"] + 20)
    assert crosshair_mm(page)[2] == pytest.approx(heights[2], abs=0.06)
    page.mouse.move(5, 5)
    assert crosshair_mm(page) == before
    article.locator(".bars").focus()
    page.keyboard.press("Home")
    for key, expected in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("End", len(heights) - 1)):
        page.keyboard.press(key)
        assert crosshair_mm(page)[2] == pytest.approx(heights[expected], abs=0.06)
    said = article.locator(".bars").get_attribute("aria-valuetext")
    assert f"{heights[-1]:.0f}".replace("-", "−") in said
    assert "weight" in said


def test_moving_the_crosshair_within_the_slice_is_kept_when_a_bar_is_clicked(open_page, served, file_of):
    page = open_page(served.address)
    volume = open_scan(page, file_of("axial"))
    article = ask(page, "Which contrast phase is this?")
    picture(page).focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")  # toward the patient's left, which LPS counts up
    moved = crosshair_mm(page)
    click_bar(page, article, 10, len(volume["grid_slices"]))
    assert crosshair_mm(page)[:2] == pytest.approx(moved[:2], abs=0.06)
    assert moved[0] > volume["grid_slices"][0]["position_mm"][0] + 3


SEEN_FROM = {"Axial": (1, -1), "Coronal": (1, -1), "Sagittal": (-1, -1)}
"""Where the bright octant (left, front, head) must appear: +1 is right of and below the middle of the picture."""


def test_left_and_right_are_those_of_the_radiological_convention(open_page, served, octant_file):
    page = open_page(served.address)
    volume = open_scan(page, octant_file)
    centre_mm = crosshair_mm(page)
    for name, (across, down) in SEEN_FROM.items():
        page.get_by_role("button", name=name, exact=True).click()
        page.wait_for_timeout(300)
        bright_x, bright_y = bright_centre(picture(page, name.lower()).screenshot())
        assert across * bright_x > 0.1, name
        assert down * bright_y > 0.1, name
    page.get_by_role("button", name="Axial", exact=True).click()
    box = picture(page).bounding_box()
    page.mouse.click(box["x"] + 0.62 * box["width"], box["y"] + 0.4 * box["height"])
    x_mm, y_mm, _ = crosshair_mm(page)
    assert x_mm > centre_mm[0] + 10, "the right of the picture is the patient's left, where LPS x grows"
    assert y_mm < centre_mm[1] - 5, "the top of the picture is the front, where LPS y is small"
    assert "value 200 HU" in page.locator(".readout").inner_text().replace("\n", " ")
    assert volume["receipt"]["has_positions"]


def bright_centre(png: bytes) -> tuple[float, float]:
    """Centre of what is white, from the middle of all that is drawn, in half sizes of the drawn part."""
    pixels = pixels_of(png)
    white = (pixels.min(axis=2) > 180) & (np.ptp(pixels, axis=2) < 12)
    rows, columns = np.nonzero(white)
    height, width = white.shape
    return (columns.mean() - width / 2) / (width / 2), (rows.mean() - height / 2) / (height / 2)


def pixels_of(png: bytes) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def test_a_scan_without_geometry_still_moves_by_index_and_claims_no_sides(open_page, served, tmp_path):
    rng = np.random.default_rng(0)
    scan = tmp_path / "scan.npy"
    np.save(scan, rng.normal(size=(40, 48, 56)).astype(np.float32))
    page = open_page(served.address)
    volume = open_scan(page, scan)
    assert volume["grid_slices"][0]["position_mm"] is None
    assert "holds no positions" in page.locator(".readout").inner_text()
    assert "sides unknown" in page.locator(".readout").inner_text()
    article = ask(page, "Which contrast phase is this?")
    count = len(volume["grid_slices"])
    low, high = volume["receipt"]["crop_zyx"][0]
    for index in (0, count // 2, count - 1):
        click_bar(page, article, index, count)
        voxel = low + (index + 0.5) / count * (high - low) - 0.5
        assert crosshair_mm(page)[2] == pytest.approx(voxel, abs=0.06)


def test_findings_are_described_as_a_report_and_a_follow_up_brings_what_was_said(open_page, served, file_of):
    page = open_page(served.address)
    open_scan(page, file_of("axial"))
    page.get_by_role("button", name="Describe the findings").click()
    report = answered(page, 0)
    assert "CT" in report.locator(".words").inner_text()
    asked = []
    page.on("request", lambda request: asked.append(request) if request.url.endswith("completions") else None)
    ask(page, "Which contrast phase is this?")
    page.get_by_label("Follow-up").check()
    ask(page, "Where is it?")
    alone, after = (request.post_data_json["messages"] for request in asked)
    assert [message["role"] for message in alone] == ["user"]
    assert [message["role"] for message in after] == ["user", "assistant", "user", "assistant", "user"]
    assert after[1]["content"] == report.locator(".words").inner_text()


def test_reports_are_saved_as_page_json_and_dicom(open_page, served, phantom_of, tmp_path):
    from slicesight.io.writers import write_dicom

    folder = tmp_path / "dicom"
    write_dicom(phantom_of("axial").volume, folder)
    page = open_page(served.address)
    volume = open_scan(page, folder, field=1)
    assert "DICOM" in volume["receipt"]["source"]["format"]
    words = ask(page, "Which contrast phase is this?").locator(".words").inner_text()
    saved = {}
    for name in ("Report page", "Data", "DICOM SR"):
        page.locator("summary", has_text="Export").click()
        with page.expect_download() as download:
            page.get_by_role("button", name=name).click()
        saved[name] = download.value
    assert saved["Report page"].suggested_filename.endswith(".html")
    assert words in saved["Report page"].path().read_text(encoding="utf-8")
    assert json.loads(saved["Data"].path().read_bytes())["answers"][0]["answer"] == words
    assert saved["DICOM SR"].suggested_filename.endswith(".dcm")
    assert saved["DICOM SR"].path().read_bytes()[128:132] == b"DICM"


def test_a_scan_that_is_no_dicom_has_no_dicom_report_and_the_menu_says_why(open_page, served, file_of):
    page = open_page(served.address)
    open_scan(page, file_of("axial"))
    ask(page, "Which contrast phase is this?")
    page.locator("summary", has_text="Export").click()
    button = page.get_by_role("button", name="DICOM SR")
    assert button.is_disabled()
    assert "needs a DICOM scan" in button.inner_text()


@pytest.mark.parametrize("way", ["button", "reload", "close"])
def test_nothing_of_the_scan_is_left_on_the_server(way, open_page, served, file_of):
    others = served.kept_scans()  # a browser that is killed deletes nothing; the server's own clock does
    page = open_page(served.address)
    open_scan(page, file_of("axial"))
    ask(page, "Which contrast phase is this?")
    assert served.kept_scans() - others
    page.on("dialog", lambda dialog: dialog.accept())  # the browser asks before answers are lost
    if way == "button":
        page.get_by_role("button", name="Delete").click()
        page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    elif way == "reload":
        page.reload()
        page.locator(".drop").wait_for()
    else:
        page.goto("about:blank")
    for _ in range(300):
        if not served.kept_scans() - others:
            break
        page.wait_for_timeout(100)
    assert served.kept_scans() - others == set()
    if way != "close":
        assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]
        assert page.evaluate("indexedDB.databases().then(all => all.length)") == 0


def test_windows_are_chosen_by_name_or_drawn_with_the_right_button(open_page, served, file_of):
    page = open_page(served.address)
    open_scan(page, file_of("axial"))
    choice = page.locator(".tools select")
    assert choice.input_value() == "model's own"
    seen = {}
    for name in ("model's own", "lung", "bone"):
        choice.select_option(name)
        seen[name] = picture(page).screenshot()
    assert len(set(seen.values())) == 3
    before = crosshair_mm(page)
    drag(page, picture(page), (0.3, 0.3), (0.5, 0.5), button="right")
    assert choice.input_value().startswith("by hand")
    assert picture(page).screenshot() not in seen.values()
    choice.select_option("bone")
    assert crosshair_mm(page) == before
    difference = pixels_of(picture(page).screenshot()) - pixels_of(seen["bone"])
    assert np.abs(difference[10:-10, 10:-10]).mean() < 1  # the edge shows who has the focus


def test_of_several_series_one_is_chosen_by_what_it_is(open_page, served, phantom_of, tmp_path):
    from slicesight.io.writers import write_dicom

    for plane in ("axial", "sagittal"):
        write_dicom(phantom_of(plane).volume, tmp_path / "study" / plane)
    page = open_page(served.address)
    page.allowed_complaints = ("422",)
    page.locator("input[type=file]").nth(1).set_input_files(tmp_path / "study")
    page.get_by_text("more than one series").wait_for()
    choices = page.locator(".series button")
    assert choices.count() == 2
    size = "×".join(str(length) for length in phantom_of("sagittal").volume.shape[1::-1])
    choices.filter(has_text=size).click()
    page.locator(".readout[data-mm]").wait_for()
    assert "sagittal" in page.locator("h1.scan").inner_text()
