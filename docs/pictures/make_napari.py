"""Make the manual's picture of the napari panel: a question about an axial phantom, the heaviest slice on screen.

PYTHONPATH=src:plugins/napari/src xvfb-run -a python docs/pictures/make_napari.py   (needs napari and Xvfb)
"""

import sys
import tempfile
import time
from pathlib import Path

import napari
from PIL import Image
from qtpy.QtWidgets import QApplication

from napari_slicesight.reader import read_scan
from napari_slicesight.widget import AskWidget
from slicesight.phantoms.folder import write_phantom
from slicesight.phantoms.rendering import make_phantom

SEED = 20_000
SIZE = (1200, 800)
LONGEST_S = 900


def main(picture: Path) -> None:
    index = next(i for i in range(100) if _suits(i))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("volumes", "labels"):
            (folder / part).mkdir()
        case = write_phantom(folder, seed=SEED, index=index)
        question = next(pair.prompt for pair in case.conversations if (pair.task, pair.topic) == ("open", "location"))
        viewer = napari.Viewer(title="napari")
        ((voxels, settings, _),) = read_scan(folder / case.volume)
        viewer.add_image(voxels, **{**settings, "name": "phantom"})
        panel = AskWidget(viewer)
        viewer.window.add_dock_widget(panel, name="Ask the scan", area="right", add_vertical_stretch=False)
        viewer.window.resize(*SIZE)
        panel.model.setCurrentText("phantom-tiny")
        panel.question.setText(question)
        panel.ask()
        _wait(panel.ask_button.isEnabled)
        assert panel._asked is not None, panel.status.text()
        panel.go_to(panel._asked[0].heaviest[0].number)
        viewer.reset_view()
        _wait(lambda: False, 2)
        Image.fromarray(viewer.window.screenshot(flash=False, canvas_only=False)).convert("RGB").quantize(128).save(
            picture, optimize=True
        )
        viewer.close()
    print(f"wrote {picture}, {picture.stat().st_size} bytes")


def _wait(is_done, seconds=LONGEST_S):
    until = time.monotonic() + seconds
    while not is_done() and time.monotonic() < until:
        QApplication.processEvents()
        time.sleep(0.01)


def _suits(index: int) -> bool:
    """The first axial scan with two findings: one picture shows one scan."""
    truth = make_phantom(SEED, index).truth
    return truth.plane == "axial" and len(truth.findings) == 2


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("napari.png"))
