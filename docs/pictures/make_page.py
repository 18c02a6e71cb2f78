"""Make the manual's picture of the web page: two of the eleven questions about one axial phantom, chosen by topic.

make web && PYTHONPATH=tests python docs/pictures/make_page.py   (needs Chromium and the Python package playwright)
"""

import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from browser.served import Served, chromium_options
from browser.steps import answered, ask, open_scan
from slicesight.phantoms.folder import write_phantom
from slicesight.phantoms.rendering import make_phantom

SEED = 20_000
SIZE = {"width": 1400, "height": 860}


def main() -> None:
    index = next(i for i in range(100) if _suits(i))
    picture = Path(__file__).with_name("page.png")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("volumes", "labels"):
            (folder / part).mkdir()
        case = write_phantom(folder, seed=SEED, index=index)
        question = next(pair.prompt for pair in case.conversations if (pair.task, pair.topic) == ("open", "location"))
        server = Served(folder / "served")
        try:
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(**chromium_options())
                page = browser.new_page(viewport=SIZE)
                page.goto(server.address)
                open_scan(page, folder / case.volume)
                ask(page, question).locator(".ranges button").first.click()
                page.get_by_role("button", name="Describe the findings").click()
                answered(page, 1)
                page.locator(".turns").evaluate("turns => turns.scrollTo(0, 180)")
                page.mouse.move(5, 5)
                page.wait_for_timeout(500)
                page.screenshot(path=picture)
                browser.close()
        finally:
            server.stop()
    Image.open(picture).convert("RGB").save(picture, optimize=True)
    print(f"wrote {picture}")


def _suits(index: int) -> bool:
    """The first axial scan with two findings: one picture shows one scan."""
    truth = make_phantom(SEED, index).truth
    return truth.plane == "axial" and len(truth.findings) == 2


if __name__ == "__main__":
    main()
