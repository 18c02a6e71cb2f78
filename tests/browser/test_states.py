"""Can everybody read every state of the page, at four sizes, light and dark? Rules of axe-core, and the tree of names.

Needs axe-core (`npm ci` in web/). SLICESIGHT_PICTURES=FOLDER keeps a screenshot of each state.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from browser.served import REPOSITORY
from browser.steps import answered, drag, open_scan, picture
from browser.test_refusals import QUESTION, SCORES, refusal, send, stream

pytestmark = pytest.mark.browser

AXE = REPOSITORY / "web/node_modules/axe-core/axe.min.js"
SIZES = {"desk": (1366, 768), "laptop at 200 %": (683, 384), "phone": (390, 844), "phone on its side": (844, 390)}
RANGES = [{"name": "slice 10", "place": "z 3 mm", "share": 0.4, "grid_slices": [10, 10]}]
WEIGHED = {"scores": SCORES, "even_share": 1 / 22, "ranges": RANGES}


class Looked:
    """Looks at one state after the other, and keeps what is wrong with each."""

    def __init__(self, page, name: str) -> None:
        self.page, self.name, self.found, self.seen = page, name, [], []
        folder = os.environ.get("SLICESIGHT_PICTURES")
        self.folder = None if folder is None else Path(folder)

    def at(self, state: str) -> None:
        self.page.evaluate(AXE.read_text(encoding="utf-8"))
        result = self.page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
        self.seen.append(state)
        for broken in result["violations"]:
            targets = [" ".join(map(str, node["target"])) for node in broken["nodes"]][:3]
            self.found.append(f"{state}: {broken['id']} at {targets}")
        if not self.page.evaluate("document.documentElement.scrollWidth <= innerWidth"):
            self.found.append(f"{state}: scrolls sideways")
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=self.folder / f"{self.name} {state}.png".replace(" ", "-").replace("%", ""))


def answering(answer):
    return lambda route: route.fulfill(**answer)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_every_state_is_accessible(size, scheme, open_page, served, file_of, tmp_path):
    if not AXE.is_file():
        pytest.skip("axe-core is not here: npm ci in web/")
    width, height = SIZES[size]
    page = open_page(served.address, size={"width": width, "height": height}, color_scheme=scheme)
    page.allowed_complaints = ("Failed to load resource",)
    page.on("dialog", lambda dialog: dialog.accept())
    look = Looked(page, f"{size} {scheme}")
    page.locator(".notices .warning").wait_for()
    page.get_by_text("Reading options").click()
    look.at("welcome")
    letter = tmp_path / "letter.txt"
    letter.write_text("Dear colleague")
    page.locator("input[type=file]").first.set_input_files(letter)
    page.locator(".problem").wait_for()
    look.at("refused file")
    page.route("**/v1/volumes", lambda route: None)
    page.locator("input[type=file]").first.set_input_files(letter)
    page.get_by_role("button", name="Stop").wait_for()
    look.at("sending")
    page.get_by_role("button", name="Stop").click()
    page.unroute_all(behavior="ignoreErrors")

    open_scan(page, file_of("axial"))
    look.at("opened")
    page.get_by_text("All facts").click()
    page.get_by_role("button", name="Measure a length").click()
    drag(page, picture(page), (0.4, 0.5), (0.6, 0.6))
    page.get_by_role("button", name="Measure a region").click()
    drag(page, picture(page), (0.3, 0.3), (0.5, 0.45))
    look.at("measured")
    page.get_by_text("All facts").click()

    page.route("**/v1/chat/completions", lambda route: None)
    send(page)
    page.get_by_role("button", name="Stop").wait_for()
    look.at("asking")
    page.get_by_role("button", name="Stop").click()
    look.at("stopped")
    answers = {
        "answered": stream("the liver", confidence=0.97, **WEIGHED),
        "cut off": stream("a cyst in the liver and", finish="length", **WEIGHED),
        "not sure": stream(
            "I do not know.", confidence=0.2, abstained="low_confidence", would_say="the liver", **WEIGHED
        ),
        "spread out": stream("the liver", scores=[0.04] * 20 + [0.02] * 10, even_share=1 / 30, ranges=[]),
        "does not weigh": stream("the liver"),
        "failed": refusal(500, "the server made a mistake; its log says where."),
        "gone": refusal(404, "there is no such volume"),
    }
    for number, (state, answer) in enumerate(answers.items(), 1):
        page.unroute_all(behavior="ignoreErrors")
        page.route("**/v1/chat/completions", answering(answer))
        send(page)
        if state in ("failed", "gone"):
            page.locator("article.turn").nth(number).locator(".problem").wait_for()
        else:
            answered(page, len([one for one in answers if one in look.seen]))
        look.at(state)
    page.locator("summary", has_text="Export").click()
    look.at("export menu")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Help").click()
    look.at("help")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Delete").click()
    look.at("delete")
    page.get_by_role("dialog").get_by_role("button", name="Keep").click()
    page.get_by_role("button", name="Hide").or_(page.get_by_role("button", name="3D", exact=True)).first.click()
    look.at("picture hidden or 3D")
    assert look.found == []
    assert len(look.seen) == 18


def test_the_accessibility_tree_reads_as_the_page_does(open_page, served, file_of):
    page = open_page(served.address)
    open_scan(page, file_of("axial"))
    page.route("**/v1/chat/completions", lambda route: route.fulfill(**stream("the liver", **WEIGHED)))
    send(page)
    answered(page, 0)
    tree = page.locator("body").aria_snapshot()
    for line in (
        '- note "Notices":',
        '- region "Viewer":',
        '- slider "axial picture"',
        '- slider "Weight of each grid slice"',
        '- region "Questions and answers":',
        '- log "Answers":',
        f"- heading {json.dumps(QUESTION)} [level=2]",
        '- button "Go to the heaviest slice"',
        '- textbox "Question about the scan"',
    ):
        assert line in tree, tree
    assert "slice" in picture(page).get_attribute("aria-valuetext")
