"""Does the page hold on a phone, without a mouse, in the dark, and under a strict policy?"""

from __future__ import annotations

import pytest

from browser.served import DESKTOP, PHONE
from browser.steps import ask, click_bar, crosshair_mm, open_scan
from slicesight.models.card import RESEARCH_NOTICE

pytestmark = pytest.mark.browser

STRICT = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def in_sight(page, locator) -> bool:
    box, size = locator.bounding_box(), page.viewport_size
    return box is not None and box["y"] >= 0 and box["y"] + box["height"] <= size["height"] and box["width"] > 0


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
    assert in_sight(page, page.locator("canvas")), "the picture is seen beside the bar that moves it"
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
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate("(e => e.getAttribute('role') || e.ariaLabel || e.textContent)(document.activeElement)")
        )
    picture = page.locator("canvas").get_attribute("aria-label")
    assert {"slider", picture, "Help", "Export", "Delete scan", "Coronal", "Describe the findings"} <= reached


def test_every_control_has_a_name(open_page, served, file_of):
    page = open_page(served.address)
    nameless = """() => [...document.querySelectorAll('button, input, select, textarea, [role=slider], canvas')]
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
    for where in (".notices .warning", ".notices p:last-child", ".words", ".legend", ".question", ".readout .faint"):
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
