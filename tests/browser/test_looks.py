"""Does the page hold on a phone, without a mouse, in the dark, and under a strict policy?"""

from __future__ import annotations

import pytest

from browser.served import DESKTOP, PHONE
from browser.steps import ask, click_bar, crosshair_mm, open_scan, picture
from slicesight.models.card import RESEARCH_NOTICE

pytestmark = pytest.mark.browser

STRICT = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def in_sight(page, locator) -> bool:
    box, size = locator.bounding_box(), page.viewport_size
    return box is not None and box["y"] >= 0 and box["y"] + box["height"] <= size["height"] and box["width"] > 0


SMALL = {
    "phone": PHONE,
    "phone on its side": {"width": 844, "height": 390},
    "laptop at 200 %": {"width": 683, "height": 384},
    "laptop at 400 %": {"width": 341, "height": 192},
    "320 wide": {"width": 320, "height": 568},
}


@pytest.mark.parametrize("name", SMALL)
def test_on_a_small_screen_the_answer_begins_in_sight_beside_one_plane(name, open_page, served, file_of):
    page = open_page(served.address, size=SMALL[name])
    open_scan(page, file_of("axial"))
    article = ask(page, "Which contrast phase is this?")
    assert has_no_sideways_scroll(page)
    assert page.locator(".pane").count() == 1
    words = article.locator(".words").bounding_box()
    top = words["y"] + 20  # its first line
    assert 0 <= words["y"] < top <= page.viewport_size["height"]
    middle = words["x"] + 15
    seen = "([x, y]) => document.elementFromPoint(x, y)?.closest('.words') !== null"
    assert page.evaluate(seen, [middle, words["y"] + 12]), "something lies over the answer"
    if SMALL[name]["height"] > 300:
        assert in_sight(page, picture(page)), "the picture stays in sight beside the answer"
        assert in_sight(page, page.get_by_role("button", name="Measure a length")), "and its tools with it"
        room = area(page.locator(".turns"))
        page.get_by_role("button", name="Hide").click()
        assert area(page.locator(".turns")) > 1.2 * room
        article.locator(".ranges button").first.click()
        assert picture(page).is_visible(), "who goes to a slice wants to see it"
    for part in (page.locator("#question"), article.locator(".bars"), page.locator("button", has_text="Export")):
        if part.count():
            part.first.scroll_into_view_if_needed()
            assert part.first.is_visible()


def area(locator) -> float:
    box = locator.bounding_box()
    return box["width"] * box["height"]


def has_no_sideways_scroll(page) -> bool:
    return page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_notices_are_always_in_sight_and_nothing_sticks_out(size, open_page, served, file_of):
    page = open_page(served.address, size=size)
    notices = [page.get_by_text(RESEARCH_NOTICE), page.get_by_text("trained on synthetic CT only")]
    page.locator(".notices .warning").wait_for()
    assert has_no_sideways_scroll(page)
    assert all(in_sight(page, notice) for notice in notices)
    volume = open_scan(page, file_of("axial"))
    article = ask(page, "Which contrast phase is this?")
    assert has_no_sideways_scroll(page)
    assert all(in_sight(page, notice) for notice in notices)
    click_bar(page, article, 4, len(volume["grid_slices"]))
    assert in_sight(page, picture(page)), "the picture is seen beside the bar that moves it"
    assert in_sight(page, article.locator(".bars"))
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    assert all(in_sight(page, notice) for notice in notices)
    assert crosshair_mm(page)[2] == pytest.approx(volume["grid_slices"][4]["position_mm"][2], abs=0.06)


def test_the_page_needs_no_more_than_a_strict_policy_allows(open_page, served, file_of):
    page = open_page(served.address)

    def with_strict_policy(route):
        response = route.fetch()
        route.fulfill(response=response, headers={**response.headers, "content-security-policy": STRICT})

    page.route(served.address, with_strict_policy)
    page.goto(served.address)
    assert page.evaluate("fetch(location.href).then(answer => answer.headers.get('content-security-policy'))") == STRICT
    open_scan(page, file_of("axial"))
    ask(page, "Which contrast phase is this?")
    page.keyboard.press("Escape")


def test_everything_is_reached_without_a_mouse(open_page, served, file_of):
    page = open_page(served.address)
    open_scan(page, file_of("axial"))
    page.locator("body").press("?")
    assert page.locator("dialog.help").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("dialog.help").is_visible()
    page.locator("body").press("/")
    page.keyboard.type("Which contrast phase is this?")
    page.keyboard.press("Enter")
    page.locator("article.turn[data-state=done]").wait_for()
    reached = set()
    for _ in range(50):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("(e => e.ariaLabel || e.textContent)(document.activeElement)"))
        reached.add(page.evaluate("document.activeElement.getAttribute('role')"))
    assert {"axial picture", "slider", "Help", "Export", "Delete scan", "Coronal", "Describe the findings"} <= reached


def test_every_control_has_a_name(open_page, served, file_of):
    page = open_page(served.address)
    nameless = """() => [...document.querySelectorAll('button, input, select, textarea, [role=slider]')]
      .filter(e => !(e.textContent.trim() || e.ariaLabel || (e.labels && e.labels.length)))
      .map(e => e.outerHTML)"""
    page.get_by_text("Reading options").click()
    assert page.evaluate(nameless) == []
    open_scan(page, file_of("axial"))
    ask(page, "Which contrast phase is this?")
    assert page.evaluate(nameless) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_paper(scheme, open_page, served, file_of):
    page = open_page(served.address, color_scheme=scheme)
    page.locator(".notices .warning").wait_for()
    open_scan(page, file_of("axial"))
    ask(page, "Which contrast phase is this?")
    for where in (
        ".notices .warning",
        ".notices p:last-child",
        ".words",
        ".legend",
        ".question",
        ".readout .faint",
        ".caveat",
    ):
        assert page.evaluate(CONTRAST, where) >= 4.5, where


CONTRAST = """selector => {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const rgb = colour => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  let paper = document.querySelector(selector);
  const ink = light(rgb(getComputedStyle(paper).color));
  while (rgb(getComputedStyle(paper).backgroundColor)[3] === 0) paper = paper.parentElement;
  const ground = light(rgb(getComputedStyle(paper).backgroundColor));
  return (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
}"""
