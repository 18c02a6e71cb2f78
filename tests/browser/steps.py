"""What somebody does on the page, in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def open_scan(page: Any, scan: Path, *, field: int = 0) -> dict[str, Any]:
    """Choose a file (or, in field 1, a folder), wait until it is drawn -> what the server said about it."""
    with page.expect_response(lambda response: response.url.endswith("/v1/volumes")) as answer:
        page.locator("input[type=file]").nth(field).set_input_files(scan)
    page.locator(".readout[data-mm]").wait_for()
    return answer.value.json()


def ask(page: Any, question: str) -> Any:
    """Ask, wait for the whole answer -> its article."""
    number = page.locator("article.turn").count()
    page.fill("#question", question)
    page.press("#question", "Enter")
    return answered(page, number)


def answered(page: Any, number: int) -> Any:
    page.locator("article.turn[data-state=done]").nth(number).wait_for()
    return page.locator("article.turn").nth(number)


def crosshair_mm(page: Any) -> list[float]:
    """LPS, as the page shows it."""
    return [float(value) for value in page.locator(".readout").get_attribute("data-mm").split()]


def click_bar(page: Any, article: Any, index: int, count: int) -> None:
    bars = article.locator(".bars")
    bars.scroll_into_view_if_needed()
    box = bars.bounding_box()
    page.mouse.click(box["x"] + box["width"] * (index + 0.5) / count, box["y"] + box["height"] / 2)


def picture(page: Any, plane: str = "axial") -> Any:
    """The picture of a plane."""
    return page.locator(f".pane[data-plane={plane}]")


def drag(page: Any, pane: Any, start: tuple[float, float], end: tuple[float, float], *, button: str = "left") -> None:
    """Drag on a picture between two places, in parts of its width and height."""
    box = pane.bounding_box()
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, end)]
    page.mouse.move(*places[0])
    page.mouse.down(button=button)
    page.mouse.move(*places[1], steps=5)
    page.mouse.up(button=button)
