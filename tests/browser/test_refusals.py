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


@pytest.fixture
def guarded_page(open_page, tmp_path):
    """Of a server that wants a token."""
    token_file = tmp_path / "token"
    token_file.write_text(TOKEN + "\n")
    guarded = Served(tmp_path / "scans", "--token-file", str(token_file))
    try:
        page = open_page(guarded.address)
        page.allowed_complaints = ("401",)
        yield page
    finally:
        guarded.stop()


def test_a_busy_server_is_asked_again_by_itself(opened):
    refused = []

    def once_busy(route):
        if refused:
            return route.continue_()
        refused.append(route)
        return route.fulfill(**refusal(429, "32 questions wait", **{"retry-after": "2"}))

    opened.route("**/v1/chat/completions", once_busy)
    send(opened)
    opened.get_by_text("32 questions wait. Asking again in").wait_for()
    assert answered(opened, 0).locator(".words").inner_text()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (refusal(504, "no whole answer within 60 s"), "longer than the server allows"),
        (None, "connection was lost"),
        (
            {"status": 200, "headers": {"content-type": "text/event-stream"}, "body": "data: {}\n\n"},
            "connection was lost",
        ),
    ],
    ids=["slow", "offline", "broken off"],
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
    assert page.locator(".problem").inner_text().startswith("letter.txt: ")
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


def test_a_token_is_asked_for_refused_when_wrong_and_used_for_everything(guarded_page, file_of):
    dialog = guarded_page.get_by_role("dialog")
    dialog.wait_for()
    for token in ("wrong", TOKEN):
        dialog.get_by_label("Token").fill(token)
        dialog.get_by_role("button", name="Go on").click()
        if token == "wrong":
            dialog.get_by_text("refused").wait_for()
    dialog.wait_for(state="hidden")
    open_scan(guarded_page, file_of("axial"))
    ask(guarded_page, QUESTION)
    guarded_page.locator("summary", has_text="Export").click()
    with guarded_page.expect_download() as download:
        guarded_page.get_by_role("button", name="Report page").click()
    assert download.value.path().stat().st_size > 10_000
    assert guarded_page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]


@pytest.mark.parametrize("way", ["Escape", "Cancel"])
def test_a_token_that_nobody_gives_ends_the_upload_in_words(way, guarded_page, file_of):
    dialog = guarded_page.get_by_role("dialog")
    for opening in (True, False):
        dialog.wait_for()
        for _ in range(2):  # a browser may let the first Escape be refused, the second never
            if way == "Escape" and dialog.is_visible():
                guarded_page.keyboard.press("Escape")
        if way == "Cancel":
            dialog.get_by_role("button", name="Cancel").click()
        dialog.wait_for(state="hidden")
        guarded_page.locator(".problem", has_text="token").wait_for()
        assert not guarded_page.get_by_text("Reading the scan").is_visible()
        if opening:
            guarded_page.locator("input[type=file]").first.set_input_files(file_of("axial"))
    guarded_page.locator("input[type=file]").first.set_input_files(file_of("axial"))
    dialog.get_by_label("Token").fill(TOKEN)
    dialog.get_by_role("button", name="Go on").click()
    guarded_page.locator(".readout[data-mm]").wait_for()


def test_after_a_restart_the_users_file_is_opened_again_and_asked(open_page, file_of, tmp_path):
    scan = file_of("axial")
    first = Served(tmp_path / "first")
    page = open_page(first.address)
    page.allowed_complaints = ("Failed to load resource",)
    volume = open_scan(page, scan)
    kept = ask(page, QUESTION).locator(".words").inner_text()
    page.evaluate("id => fetch(`v1/volumes/${id}`, { method: 'DELETE' })", volume["id"])  # as a restart forgets it
    send(page)
    problem = page.locator(".turn .problem")
    problem.wait_for()
    assert "phantom.nii.gz is no longer on the server" in problem.inner_text()
    with page.expect_response(lambda response: response.url.endswith("/v1/volumes")) as sent:
        page.get_by_role("button", name="Open phantom.nii.gz again and ask").click()
    assert answered(page, 1).locator(".words").inner_text() == kept
    assert page.locator("article.turn").first.locator(".words").inner_text() == kept, "what was said stays"
    assert sent.value.json()["id"] != volume["id"]
    page.locator("summary", has_text="Export").click()
    assert page.get_by_text("Without the 1 from before").is_visible()
    with page.expect_download() as download:
        page.get_by_role("button", name="Data").click()
    assert len(json.loads(download.value.path().read_bytes())["answers"]) == 1
    first.stop()


def test_answers_are_not_lost_without_a_question(opened):
    asked = []
    ask(opened, QUESTION)
    opened.once("dialog", lambda dialog: (asked.append(dialog.type), dialog.dismiss()))
    opened.evaluate("setTimeout(() => location.reload())")
    opened.wait_for_timeout(1000)
    assert asked == ["beforeunload"]
    opened.get_by_role("button", name="Delete").click()
    opened.get_by_role("dialog").get_by_role("button", name="Keep").click()
    assert opened.locator("article.turn").count() == 1
    opened.get_by_role("button", name="Delete").click()
    opened.get_by_role("dialog").get_by_role("button", name="Delete").click()
    opened.locator(".drop").wait_for()


def test_a_scan_without_answers_is_deleted_without_a_question(opened):
    opened.get_by_role("button", name="Delete").click()
    opened.locator(".drop").wait_for()


SCORES = [0.01] * 10 + [0.4] + [0.01] * 10 + [0.4]


def stream(text: str, *, finish: str = "stop", **facts: object) -> dict[str, object]:
    """An answer of a server, whatever model would say it."""
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk"}
    chunks = [
        {**head, "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]},
        {**head, "choices": [{"index": 0, "delta": {"content": "", **facts}, "finish_reason": finish}]},
    ]
    body = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
    return {"status": 200, "headers": {"content-type": "text/event-stream"}, "body": body}


def test_an_answer_that_was_cut_off_says_so_and_goes_on(opened):
    whole = "A cyst in the liver, and one in the left kidney."
    lengths = []

    def say(route):
        most = route.request.post_data_json.get("max_tokens")
        lengths.append(most)
        route.fulfill(**(stream(whole[:20], finish="length") if most is None else stream(whole)))

    opened.route("**/v1/chat/completions", say)
    send(opened)
    article = answered(opened, 0)
    article.get_by_text("cut off").wait_for()
    article.get_by_role("button", name="Continue").click()
    opened.locator("article.turn .words", has_text=whole).wait_for()
    assert lengths[0] is None
    assert lengths[1] > 160
    assert article.get_by_text("cut off").count() == 0


def test_an_answer_as_long_as_the_server_gives_offers_no_more(opened):
    opened.route("**/v1/chat/completions", lambda route: route.fulfill(**stream("as long as", finish="length")))
    send(opened)
    article = answered(opened, 0)
    article.get_by_role("button", name="Continue").click()
    article.get_by_text("gives no longer answers").wait_for()
    assert article.get_by_role("button", name="Continue").count() == 0
    assert article.locator(".words").inner_text().startswith("as long as")


def test_not_sure_looks_different_from_an_answer(opened):
    opened.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(
            **stream("I do not know.", confidence=0.31, abstained="low_confidence", would_say="liver")
        ),
    )
    send(opened)
    article = answered(opened, 0)
    assert "not to be believed: it would have said “liver”" in article.inner_text()
    assert "confidence 31 %" in article.inner_text()
    unsure = article.locator(".card").evaluate("card => getComputedStyle(card).borderTopStyle")
    opened.unroute("**/v1/chat/completions")
    opened.route("**/v1/chat/completions", lambda route: route.fulfill(**stream("liver", confidence=0.97)))
    send(opened)
    sure = answered(opened, 1)
    assert "not to be believed" not in sure.inner_text()
    assert "confidence 97 %" in sure.inner_text()
    assert sure.locator(".card").evaluate("card => getComputedStyle(card).borderTopStyle") != unsure


def test_weights_are_told_with_the_share_of_what_is_not_named(opened):
    ranges = [{"name": "slice 10", "place": "z 3 mm", "share": 0.4, "grid_slices": [10, 10]}]
    facts = {"scores": SCORES, "even_share": 1 / 22, "ranges": ranges}
    opened.route("**/v1/chat/completions", lambda route: route.fulfill(**stream("liver", **facts)))
    send(opened)
    said = " ".join(answered(opened, 0).locator(".evidence").inner_text().split())
    assert "Weighs most" in said
    assert "the other 21, not named 0.60" in said
    assert "does not say that the answer is right" in said
    assert "ests on" not in said


def test_a_spread_is_called_a_spread_with_its_number_of_slices(opened):
    facts = {"scores": [0.6 / 16] * 16 + [0.4 / 16] * 16, "even_share": 1 / 32, "ranges": []}
    opened.route("**/v1/chat/completions", lambda route: route.fulfill(**stream("liver", **facts)))
    send(opened)
    said = " ".join(answered(opened, 0).locator(".evidence").inner_text().split())
    assert "Spread out over about 31 of 32 slices" in said
    assert "heaviest: " in said


def test_copied_text_takes_the_notices_along(opened):
    opened.context.grant_permissions(["clipboard-read", "clipboard-write"])
    article = ask(opened, QUESTION)
    article.get_by_role("button", name="Copy text").click()
    article.get_by_text("Copied").wait_for()
    pasted = opened.evaluate("navigator.clipboard.readText()")
    opened.evaluate("words => getSelection().selectAllChildren(words)", article.locator(".words").element_handle())
    opened.keyboard.press("Control+c")
    by_hand = opened.evaluate("navigator.clipboard.readText()")
    for text in (pasted, by_hand):
        assert article.locator(".words").inner_text() in text
        assert "For research use only" in text
        assert "trained on synthetic CT only" in text
