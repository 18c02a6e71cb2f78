"""Make the manual's picture of the notebook viewer: its own JavaScript, with a model that does what a notebook's does.

python docs/pictures/make_viewer.py   (needs Chromium, and the Python packages anywidget and playwright)
"""

import base64
import json
import re
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

import slicesight
from slicesight.phantoms.rendering import make_phantom
from slicesight.reports.widget import SliceViewer

SYNCED = ("shape", "proportions", "names", "sides", "answers", "notices", "index", "answer_number")
PAGE = """<!doctype html><meta charset="utf-8"><style>CSS body { margin: 12px; }</style><div id="viewer"></div>
<script type="module">
const state = STATE, heard = {};
state.pixels = new DataView(Uint8Array.from(atob(state.pixels), (letter) => letter.charCodeAt(0)).buffer);
const model = {
  get: (name) => state[name],
  set(name, value) { state[name] = value; (heard[`change:${name}`] ?? []).forEach((call) => call()); },
  save_changes() {},
  on(name, call) { (heard[name] ??= []).push(call); },
  off() {},
};
const module = await import(URL.createObjectURL(new Blob([ESM], { type: "text/javascript" })));
module.default.render({ model, el: document.getElementById("viewer") });
document.body.dataset.ready = "yes";
</script>"""


def main() -> None:
    phantom = make_phantom(4, 1)
    predictor = slicesight.load("phantom-tiny")
    phases = "A. non-contrast B. arterial phase C. portal venous phase D. delayed phase"
    questions = ["What is the location of the abnormality?", f"Which phase is this? Choices: {phases}"]
    answers = predictor.ask(phantom.volume, questions)
    viewer = SliceViewer(predictor.grid(phantom.volume), answers, card=predictor.card)
    state = {name: getattr(viewer, name) for name in SYNCED}
    state["pixels"] = base64.b64encode(viewer.pixels).decode()
    parts = {"CSS": viewer._css, "STATE": json.dumps(state), "ESM": json.dumps(viewer._esm)}
    page_text = re.sub("CSS|STATE|ESM", lambda found: parts[found[0]], PAGE)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        file = Path(folder) / "viewer.html"
        file.write_text(page_text, encoding="utf-8")
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 900, "height": 510})
        page.set_default_timeout(120_000)
        page.goto(file.as_uri())
        page.wait_for_selector("body[data-ready]")
        page.screenshot(path=Path(__file__).with_name("viewer.png"))
        browser.close()


if __name__ == "__main__":
    main()
