"""The comparison page in a real browser: it sorts, filters, hides a system, fits a phone, and asks no other address."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from browser.served import CHROMIUM, DESKTOP, PHONE
from slicesight.evaluation.comparing import compare_files
from slicesight.reports.compare_html import render_comparison

pytestmark = pytest.mark.browser


@pytest.fixture(scope="session", autouse=True)
def built_page() -> None:
    """In place of the folder's own: this page needs no server and no built web page."""
    if CHROMIUM is None:
        pytest.skip("no Chromium here; install it or set SLICESIGHT_CHROMIUM")


@pytest.fixture(scope="module")
def page_file(tmp_path_factory) -> Path:
    """A page of three systems with 8 scans, two topics and both kinds of questions."""
    folder = tmp_path_factory.mktemp("compare")
    arguments = []
    for name, right in (("good", 4), ("fair", 2), ("bad", 0)):
        rows = []
        for volume in range(8):
            for n in range(4):
                said = "B. spleen" if n < right else "A. liver"
                true = {"answer": "spleen", "answer_choice": "B", "choices": ["liver", "spleen"]}
                asked = {"id": f"{volume}/{n}", "task": "closed", "topic": ("organ", "place")[n % 2], "question": "Q?"}
                rows.append(json.dumps({**asked, **true, "prediction": said, "volume": f"v{volume}"}))
        (folder / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
        arguments.append(f"{name}={folder / name}.jsonl")
    path = folder / "compare.html"
    path.write_text(render_comparison(compare_files(arguments), num_cases=1))
    return path


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desk", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_sorts_filters_and_asks_no_other_address(browser, page_file, size, scheme):
    context = browser.new_context(viewport=size, color_scheme=scheme)
    page, asked, errors = context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.goto(page_file.as_uri())

    def order() -> list[str]:
        return page.locator("#table tbody tr td:first-child").all_inner_texts()

    assert order() == ["good", "fair", "bad"]
    page.get_by_role("button", name="closed acc.").click()
    assert order() == ["bad", "fair", "good"]
    page.locator("#topic").select_option("organ")
    assert page.locator("#table tbody tr").first.locator("td").nth(1).inner_text().startswith("0.00")
    assert page.locator("#counted").inner_text() == "32 questions of 32"
    page.get_by_role("button", name="only bad wrong").click()
    assert page.locator("#counted").inner_text() == "16 questions of 32"
    page.locator("#qtopic").select_option("organ")
    assert page.locator("#counted").inner_text() == "8 questions of 32"
    page.locator("#show button").nth(1).click()
    assert page.locator("[data-sys='1']:visible").count() == 0
    page.locator("#cases").get_by_role("button", name="wrong by all").click()
    assert page.locator("#cases .row:visible").count() == 0
    overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert overflow <= 0
    assert (asked, errors) == ([page_file.as_uri()], [])
    context.close()
