"""What does the page say when something goes wrong? Words, and a way on."""

from __future__ import annotations

import json

import pytest

from browser.served import TOKEN, Served
from browser.steps import answered, ask, open_scan

pytestmark = pytest.mark.browser

QUESTION = "Which contrast phase is this?"


def refusal(status: int, message: str, **headers: str) -> dict[str, object]:
    body = {"error": {"message": message, "type": "x", "param": None, "code": None}}
    return {"status": status, "headers": {"content-type": "application/json", **headers}, "body": json.dumps(body)}


def send(page) -> None:
    page.fill("#question", QUESTION)
    page.press("#question", "Enter")


@pytest.fixture
def opened(open_page, served, file_of):
    page = open_page(served.address)
    page.allowed_complaints = ("Failed to load resource",)
    open_scan(page, file_of("axial"))
    return page


def test_a_busy_server_is_asked_again_by_itself(opened):
    refused = []

    def once_busy(route):
        if refused:
            return route.continue_()
        refused.append(route)
        return route.fulfill(**refusal(429, "32 questions wait", **{"retry-after": "2"}))

    opened.route("**/v1/chat/completions", once_busy)
    send(opened)
    opened.get_by_text("asking again in").wait_for()
    assert answered(opened, 0).locator(".words").inner_text()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (refusal(504, "no whole answer within 60 s"), "longer than the server allows"),
        (refusal(404, "there is no such volume"), "no longer on the server"),
        (None, "connection was lost"),
        (
            {"status": 200, "headers": {"content-type": "text/event-stream"}, "body": "data: {}\n\n"},
            "connection was lost",
        ),
    ],
    ids=["slow", "gone", "offline", "broken off"],
)
def test_a_failed_question_says_why_and_can_be_asked_again(answer, words, opened):
    fail = (lambda route: route.abort()) if answer is None else (lambda route: route.fulfill(**answer))
    opened.route("**/v1/chat/completions", fail)
    send(opened)
    opened.locator(".turn .problem", has_text=words).wait_for()
    opened.unroute("**/v1/chat/completions")
    opened.get_by_role("button", name="Ask again").click()
    assert answered(opened, 0).locator(".bars").count() == 1


def test_a_long_answer_is_stopped_and_asked_again(opened):
    opened.route("**/v1/chat/completions", lambda route: None)
    send(opened)
    opened.get_by_role("button", name="Stop").click()
    opened.get_by_text("Stopped.").wait_for()
    opened.unroute_all(behavior="ignoreErrors")
    opened.get_by_role("button", name="Ask again").click()
    assert answered(opened, 0).locator(".words").inner_text()


def test_a_file_that_is_no_scan_is_refused_in_the_servers_words(open_page, served, tmp_path):
    page = open_page(served.address)
    page.allowed_complaints = ("Failed to load resource",)
    letter = tmp_path / "letter.txt"
    letter.write_text("Dear colleague")
    page.locator("input[type=file]").first.set_input_files(letter)
    page.locator(".problem").wait_for()
    assert len(page.locator(".problem").inner_text()) > 20
    assert page.locator(".drop").is_visible()


def test_a_file_that_is_too_large_is_not_even_sent(open_page, served, tmp_path):
    page = open_page(served.address)
    sent = []
    page.on("request", lambda request: sent.append(request.url) if request.method == "POST" else None)
    page.locator(".notices .warning").wait_for()
    page.evaluate("Object.defineProperty(Blob.prototype, 'size', { get: () => 3e9 })")
    scan = tmp_path / "scan.npy"
    scan.write_bytes(b"0")
    page.locator("input[type=file]").first.set_input_files(scan)
    page.locator(".problem", has_text="3 GB").wait_for()
    assert sent == []


def test_a_token_is_asked_for_refused_when_wrong_and_used_for_everything(open_page, file_of, tmp_path):
    token_file = tmp_path / "token"
    token_file.write_text(TOKEN + "\n")
    guarded = Served(tmp_path / "scans", "--token-file", str(token_file))
    try:
        page = open_page(guarded.address)
        page.allowed_complaints = ("401",)
        dialog = page.get_by_role("dialog")
        dialog.wait_for()
        for token in ("wrong", TOKEN):
            dialog.get_by_label("Token").fill(token)
            dialog.get_by_role("button", name="Go on").click()
            if token == "wrong":
                dialog.get_by_text("refused").wait_for()
        dialog.wait_for(state="hidden")
        open_scan(page, file_of("axial"))
        ask(page, QUESTION)
        page.locator("summary", has_text="Export").click()
        with page.expect_download() as download:
            page.get_by_role("button", name="Report page").click()
        assert download.value.path().stat().st_size > 10_000
        assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]
    finally:
        guarded.stop()
