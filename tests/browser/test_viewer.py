"""Does the picture do what a radiologist expects, also of a large scan on a computer without a graphics card?"""

from __future__ import annotations

import json
import re
import struct

import numpy as np
import pytest

from browser.steps import ask, crosshair_mm, drag, open_scan, picture

pytestmark = pytest.mark.browser


def corner(page, place: str, plane: str = "axial") -> str:
    return picture(page, plane).locator(f".{place}").inner_text()


def slice_shown(page) -> int:
    return int(re.search(r"slice (\d+)", corner(page, "top-left")).group(1))


@pytest.fixture
def opened(open_page, served, file_of):
    page = open_page(served.address)
    page.volume = open_scan(page, file_of("axial"))
    return page


def test_the_slice_on_the_picture_is_the_one_the_file_counts(opened):
    article = ask(opened, "Which contrast phase is this?")
    for key, index in (("Home", 0), ("End", -1)):
        article.locator(".bars").focus()
        opened.keyboard.press(key)
        assert slice_shown(opened) in opened.volume["grid_slices"][index]["source_slices"]
    last = opened.volume["receipt"]["num_source_slices"] - 1
    assert corner(opened, "top-left").endswith(f"of 0–{last}")


def test_keys_and_wheel_leaf_through_slices_of_the_picture_that_has_the_focus(opened):
    picture(opened).focus()
    opened.keyboard.press("Home")
    numbers = [slice_shown(opened)]
    for key in ("PageUp", "PageUp", "PageDown"):
        opened.keyboard.press(key)
        numbers.append(slice_shown(opened))
    assert [abs(number - numbers[0]) for number in numbers] == [0, 1, 2, 1]
    before = crosshair_mm(opened)
    picture(opened, "coronal").focus()
    opened.keyboard.press("PageUp")
    after = crosshair_mm(opened)
    assert after[1] < before[1], "toward the front"
    assert [after[0], after[2]] == [before[0], before[2]]
    box = picture(opened).bounding_box()
    opened.mouse.move(box["x"] + 50, box["y"] + 50)
    opened.mouse.wheel(0, 120)
    assert slice_shown(opened) != numbers[-1]


def test_a_length_is_the_millimetres_between_its_ends(opened):
    pane = picture(opened)
    places = []
    for x in (0.4, 0.6):
        box = pane.bounding_box()
        opened.mouse.click(box["x"] + x * box["width"], box["y"] + 0.5 * box["height"])
        places.append(crosshair_mm(opened))
    expected = np.linalg.norm(np.subtract(*places))
    opened.get_by_role("button", name="Measure a length").click()
    drag(opened, pane, (0.4, 0.5), (0.6, 0.5))
    listed = opened.locator(".measurements li")
    assert float(re.match(r"([\d.]+) mm", listed.inner_text()).group(1)) == pytest.approx(expected, abs=0.15)
    assert pane.locator(".measure line").count() == 1
    pane.focus()
    opened.keyboard.press("PageUp")
    assert pane.locator(".measure").count() == 0, "it belongs to its slice"
    listed.get_by_title("Show it").click()
    assert pane.locator(".measure").count() == 1
    listed.get_by_role("button", name="Remove").click()
    assert opened.locator(".measurements").count() == 0


def test_a_region_tells_the_values_inside(open_page, served, octant_file):
    page = open_page(served.address)
    open_scan(page, octant_file)
    page.get_by_role("button", name="Measure a region").click()
    drag(page, picture(page), (0.55, 0.35), (0.62, 0.42))
    assert "mean 200.0 ± 0.0 HU, 200.0 to 200.0 HU" in page.locator(".measurements").inner_text()
    drag(page, picture(page), (0.38, 0.6), (0.45, 0.65))
    assert "mean −1000.0 ± 0.0 HU" in page.locator(".measurements li").nth(1).inner_text()


def test_measuring_needs_no_mouse(opened):
    pane = picture(opened)
    pane.focus()
    start = crosshair_mm(opened)
    for key in ("l", " ", *["ArrowRight"] * 5, *["ArrowDown"] * 4, " "):
        opened.keyboard.press(key)
    expected = np.linalg.norm(np.subtract(crosshair_mm(opened), start))
    said = opened.locator(".measurements li").inner_text()
    assert float(re.match(r"([\d.]+) mm", said).group(1)) == pytest.approx(expected, abs=0.15)
    opened.keyboard.press("Delete")
    assert opened.locator(".measurements").count() == 0


def test_zoom_pan_window_and_reset(opened):
    pane = picture(opened)
    before = pane.screenshot()
    assert "W 400 L 40" in corner(opened, "bottom-left")
    box = pane.bounding_box()
    opened.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.4 * box["height"])
    opened.keyboard.down("Control")
    opened.mouse.wheel(0, -200)
    opened.keyboard.up("Control")
    assert "zoom 2.0×" in corner(opened, "top-right")
    zoomed = pane.screenshot()
    drag(opened, pane, (0.5, 0.5), (0.6, 0.6), button="middle")
    assert len({before, zoomed, pane.screenshot()}) == 3
    opened.get_by_role("button", name="Window: brightness").click()
    drag(opened, pane, (0.5, 0.5), (0.7, 0.5))
    width = float(re.search(r"W ([\d.]+)", corner(opened, "bottom-left")).group(1))
    assert width > 400
    opened.get_by_role("button", name="Crosshair", exact=True).click()
    opened.get_by_role("button", name="Reset the picture").click()
    assert "W 400 L 40" in corner(opened, "bottom-left")
    assert "zoom" not in corner(opened, "top-right")
    assert pane.locator(".crosshair").count() == 1
    opened.get_by_role("button", name="Show the crosshair").click()
    assert pane.locator(".crosshair").count() == 0


def test_the_heaviest_slice_is_gone_to_on_request_only(opened):
    go = opened.get_by_role("button", name="Go to the heaviest slice")
    assert go.is_disabled()
    before = crosshair_mm(opened)
    article = ask(opened, "Which contrast phase is this?")
    assert crosshair_mm(opened) == before, "an answer moves nothing by itself"
    go.click()
    heights = article.locator("rect.bar").evaluate_all("bars => bars.map(bar => Number(bar.getAttribute('height')))")
    expected = opened.volume["grid_slices"][int(np.argmax(heights))]["position_mm"]
    assert crosshair_mm(opened)[2] == pytest.approx(expected[2], abs=0.06)


def test_dicoms_own_instance_number_is_shown_where_the_server_gives_it(open_page, served, file_of):
    page = open_page(served.address)

    page.evaluate("""() => {
      const parse = JSON.parse;
      JSON.parse = text => {
        const found = parse(text);
        if (found?.receipt) found.instance_numbers = Array.from({ length: 999 }, (_, number) => 101 + number);
        return found;
      };
    }""")
    open_scan(page, file_of("axial"))
    assert f"instance {slice_shown(page) + 101}" in corner(page, "top-left")


def test_3d_is_drawn_when_somebody_asks_for_it(opened):
    fetched = []
    opened.on("request", lambda request: fetched.append(request.url))
    assert opened.locator(".solid canvas").count() == 0
    opened.get_by_role("button", name="Show in 3D").click()
    opened.locator(".solid[data-drawn=true]").wait_for()
    assert any("niivue" in url for url in fetched)


COLUMNS, ROWS, SLICES = 512, 512, 300
WATCH = """() => {
  const watch = () => {
    if (document.querySelector('.viewer')) window.opened ??= performance.now();
    if (document.querySelector('.top-left')) window.firstPicture ??= performance.now();
    if (document.querySelector('.picture[data-whole=true]')) window.wholePicture = performance.now();
    else requestAnimationFrame(watch);
  };
  watch();
}"""


def large_nifti(path, shift: int) -> None:
    """A noisy body in air, 157 MB of int16."""
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, COLUMNS, ROWS, SLICES, 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, 4, 16)
    struct.pack_into("<8f", header, 76, 1, 0.8, 0.8, 1.5, 1, 1, 1, 1)
    struct.pack_into("<3f", header, 108, 352, 1, 0)
    header[123] = 2
    struct.pack_into("<2h", header, 252, 0, 1)
    for row, size in enumerate((0.8, 0.8, 1.5)):
        struct.pack_into("<f", header, 280 + 16 * row + 4 * row, size)
    header[344:348] = b"n+1\0"
    rng = np.random.default_rng(shift)
    y, x = np.mgrid[-1 : 1 : ROWS * 1j, -1 : 1 : COLUMNS * 1j]
    body = (x / 0.85) ** 2 + (y / 0.6) ** 2 < 1
    noise = rng.normal(40, 12, (8, ROWS, COLUMNS)).astype("<i2")
    with path.open("wb") as file:
        file.write(header)
        for number in range(SLICES):
            file.write(np.where(body, noise[number % 8], np.int16(-1000)).astype("<i2").tobytes())


@pytest.mark.slow
def test_six_large_scans_neither_stop_the_tab_nor_fill_it(open_page, browser, served, tmp_path):
    page = open_page(served.address)
    page.set_default_timeout(240_000)
    for number in range(6):
        scan = tmp_path / "large.nii"
        large_nifti(scan, number)
        page.evaluate(WATCH)
        browser.start_tracing(page=page, categories=["toplevel"])
        page.locator("input[type=file]").first.set_input_files(scan)
        page.locator(".readout[data-mm]").wait_for()
        while page.evaluate("window.wholePicture === undefined"):
            page.wait_for_timeout(20)
        longest = longest_task_ms(browser.stop_tracing())
        began, first, whole = page.evaluate("[window.opened, window.firstPicture, window.wholePicture]")
        memory = tab_bytes(page)
        print(
            f"scan {number}: first picture {first - began:.0f} ms, whole {whole - began:.0f} ms, longest task "
            f"{longest:.0f} ms, tab {memory / 1e6:.0f} MB"
        )
        assert first - began < 5000
        assert longest < 200
        assert memory < 1.5e9
        page.evaluate("window.opened = window.firstPicture = window.wholePicture = undefined")
        page.get_by_role("button", name="Delete").click()
        page.locator(".drop").wait_for()


def longest_task_ms(trace: bytes) -> float:
    """Of the page's own thread, in its own time: what it waits for while others have the core is not its doing."""
    events = json.loads(trace)["traceEvents"]
    names = {(one["pid"], one["tid"]): one["args"]["name"] for one in events if one["name"] == "thread_name"}
    own = [one for one in events if one["name"].endswith("RunTask") and "tdur" in one]
    spent = [one["tdur"] for one in own if names.get((one["pid"], one["tid"])) == "CrRendererMain"]
    assert spent
    return max(spent) / 1000


def tab_bytes(page) -> int:
    """Resident memory of the heaviest process that draws pages."""
    from pathlib import Path

    sizes = [0]
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            command = (status.parent / "cmdline").read_bytes()
            if b"--type=renderer" in command:
                sizes.append(int(re.search(r"VmRSS:\s+(\d+)", status.read_text()).group(1)) * 1024)
        except (OSError, AttributeError):
            continue
    return max(sizes)
