"""The napari plug-in in a real napari without a screen: layers, places, the panel in process and against a server."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

missing = [name for name in ("napari", "pytestqt", "qtpy") if importlib.util.find_spec(name) is None]
if missing:
    pytest.skip(
        f"{missing[0]} is not installed; make test-napari builds an environment with it", allow_module_level=True
    )
os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from napari.components import ViewerModel
from napari.layers import Image

from napari_slicesight.layers import add_masks, jump_to, knows_its_place, layer_scan
from napari_slicesight.masks import Structure
from napari_slicesight.own_model import OwnModel
from napari_slicesight.reader import get_reader, read_scan
from napari_slicesight.scan_file import ScreenScan, ViewerError, write_nifti
from napari_slicesight.widget import HERE, ON_SERVER, AskWidget
from slicesight.io.loading import read_volume

PLUGIN = Path(__file__).resolve().parents[2] / "plugins" / "napari"
WAIT_MS = 300_000


@pytest.fixture
def scan_file(oblique, tmp_path):
    write_nifti(ScreenScan(*oblique), tmp_path / "scan.nii.gz")
    return tmp_path / "scan.nii.gz"


@pytest.fixture
def viewer():
    """napari's viewer without its window: layers, dims and camera."""
    return ViewerModel()


@pytest.fixture
def layer(viewer, scan_file):
    ((data, settings, kind),) = get_reader(str(scan_file))(str(scan_file))
    assert kind == "image"
    return viewer.add_image(data, **settings)


@pytest.fixture
def panel(qtbot, viewer, layer):
    found = AskWidget(viewer)
    qtbot.addWidget(found)
    yield found
    found.close()


def own_answer(tiny_reader, scan_file, **options):
    return tiny_reader.ask(read_volume(scan_file), "Which phase is this?", max_new_tokens=160, **options)[0]


def ask(panel, qtbot, question="Which phase is this?"):
    panel.question.setText(question)
    panel.ask()
    qtbot.waitUntil(panel.ask_button.isEnabled, timeout=WAIT_MS)


# --- layers ----------------------------------------------------------------------------------------------------------


def test_a_scan_is_read_upright_with_its_place(layer, scan_file, oblique):
    volume = read_volume(scan_file)
    assert np.array_equal(layer.data, volume.voxels)
    assert tuple(layer.scale) == pytest.approx(volume.spacing_mm)
    assert layer.name == "scan"
    scan = layer_scan(layer)
    assert scan.volume is layer.metadata["slicesight"]
    image = nib.load(scan_file)
    inserted = np.argwhere(oblique[0] == 900)[0]  # (k, j, i) of the file
    here = np.argwhere(layer.data == 900)
    ras = [(scan.ras_from_ijk @ (i, j, k, 1))[:3] for k, j, i in here]
    assert np.abs(ras - (image.affine @ (*inserted[::-1], 1))[:3]).sum(axis=1).min() < 1e-3


def test_what_is_no_scan_is_left_to_other_readers(tmp_path):
    assert get_reader(str(tmp_path / "a.png")) is None
    assert get_reader([str(tmp_path / "a.nii")]) is None
    assert get_reader(str(tmp_path)) is None
    (tmp_path / "1.dcm").touch()
    assert get_reader(str(tmp_path)) is read_scan


def test_a_layer_of_elsewhere_needs_letters_for_its_axes():
    layer = Image(np.zeros((4, 5, 6), np.float32), scale=(3, 2, 1.5))
    assert not knows_its_place(layer)
    with pytest.raises(ViewerError, match="does not say where its axes grow toward"):
        layer_scan(layer)
    for wrong in ("SP", "SPX", "SSL", "SIL"):
        with pytest.raises(ViewerError, match="no three body axes"):
            layer_scan(layer, axes=wrong)
    right = layer_scan(layer, axes="ipr").lps_from_ijk
    assert np.array_equal(right[:3, :3], [[-1.5, 0, 0], [0, 2, 0], [0, 0, -3]])


def test_voxels_painted_over_make_another_scan(layer):
    first = layer_scan(layer).key
    assert layer_scan(layer).key == first
    layer.data[3, 4, 5] += 1
    assert layer_scan(layer).key != first
    layer.data = layer.data + 1
    assert layer_scan(layer).volume is None


def test_a_colour_picture_and_a_series_of_scans_are_refused():
    with pytest.raises(ViewerError, match="colour"):
        layer_scan(Image(np.zeros((4, 5, 3), np.uint8), rgb=True, name="photo"))
    with pytest.raises(ViewerError, match="three axes"):
        layer_scan(Image(np.zeros((2, 4, 5, 3), np.uint8), scale=(1, 1, 1, 1)), axes="SPL")
    with pytest.raises(ViewerError, match="no scan is chosen"):
        layer_scan(None)


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_every_slice_of_our_own_answer_is_found_on_screen(viewer, layer, tiny_reader, scan_file, plane):
    """The voxel on screen, taken to millimetres by the scan's own matrix, lies in the slice that was scored."""
    model = OwnModel("tiny-random")
    model._predictor = tiny_reader
    scan = layer_scan(layer)
    volume = layer.metadata["slicesight"]
    grid = tiny_reader.grid(volume, plane=plane)
    model._kept["x"] = tiny_reader.encode(grid), volume
    answer = model.ask("x", "Which phase is this?")
    (own,) = tiny_reader.ask(grid, "Which phase is this?", max_new_tokens=160)
    assert answer.scores == pytest.approx(own.scores, abs=1e-6)
    along = ["axial", "coronal", "sagittal"].index(plane)
    for theirs in own.slices:
        assert jump_to(viewer, layer, scan, answer, answer.slices[theirs.grid_slice])
        assert viewer.dims.order[0] == along
        index = np.array(layer.world_to_data(viewer.dims.point))
        x, y, z = (volume.affine_lps @ (*index, 1))[:3]
        place = np.array(theirs.position_mm)
        normal = volume.affine_lps[:3, along] / np.linalg.norm(volume.affine_lps[:3, along])
        step = volume.spacing_mm[along]
        assert abs(normal @ (place - (x, y, z))) <= step / 2 + 1e-3
        assert viewer.dims.current_step[along] == round(grid.to_canonical((theirs.grid_slice, 0, 0))[along] + 1e-9)
    up = {"axial": "down", "coronal": "up", "sagittal": "up"}[plane]
    assert viewer.scene.camera.orientation2d[0].value == up
    assert viewer.scene.camera.orientation2d[1].value == "right"


def test_the_slice_is_found_beside_layers_of_more_axes(viewer, layer, tiny_reader):
    viewer.add_image(np.zeros((2, 3, 4, 5, 6), np.float32))
    model = OwnModel("tiny-random")
    model._predictor = tiny_reader
    scan = layer_scan(layer)
    answer = model.ask(model.send(scan), "Which phase is this?")
    assert jump_to(viewer, layer, scan, answer, answer.heaviest[0])
    assert viewer.dims.order == (0, 1, 2, 3, 4)
    expected = scan.ijk_at(answer.heaviest[0].position_mm)[2] * layer.scale[0]
    assert viewer.dims.point[2] == pytest.approx(expected, abs=max(layer.scale))


def test_masks_lie_on_their_image_and_name_what_they_show(viewer, layer):
    labels = np.zeros(layer.data.shape, np.uint8)
    labels[4, 5, 6] = 3
    found = add_masks(viewer, layer, labels, [Structure("heart", 3)])
    assert found.extent.world == pytest.approx(layer.extent.world)
    place = layer.data_to_world((4, 5, 6))
    viewer.dims.set_point(0, place[0])
    assert found.get_value(place, world=True) == 3
    assert "heart" in str(found.get_status(place, world=True))
    with pytest.raises(ViewerError, match="one grid"):
        add_masks(viewer, layer, labels[1:], [])


# --- the panel -------------------------------------------------------------------------------------------------------


def test_the_panel_asks_a_server_and_a_click_goes_to_the_slice(
    panel, qtbot, viewer, layer, served, tiny_reader, scan_file
):
    from qtpy.QtCore import QPoint, Qt

    before = len(served[1].scan_store.volume_ids())
    panel.where.setCurrentIndex(ON_SERVER)
    panel.address.setText(served[0])
    ask(panel, qtbot)
    own = own_answer(tiny_reader, scan_file)
    answer = panel._asked[0]
    assert (answer.text, answer.scores) == (own.text, pytest.approx(own.scores, abs=1e-5))
    shown = panel.answers.toPlainText()
    assert "Which phase is this?" in shown
    assert "For research use only" in shown
    panel.plot.resize(400, 150)
    for theirs in own.slices[:3]:
        centre = panel.plot.bar(theirs.grid_slice).center()
        at = QPoint(round(centre.x()), panel.plot.height() // 2)
        qtbot.mouseClick(panel.plot, Qt.MouseButton.LeftButton, pos=at)
        assert panel.plot.chosen == theirs.grid_slice
        k = layer_scan(layer).ijk_at(theirs.position_mm)[2]
        assert viewer.dims.current_step[0] == pytest.approx(k, abs=0.51)
        assert f"score {theirs.score:.3f}" in panel.status.text()
    assert len(served[1].scan_store.volume_ids()) == before + 1
    panel.close()
    assert len(served[1].scan_store.volume_ids()) == before


def test_bars_and_their_labels_are_drawn_where_a_click_finds_them(qtbot):
    from napari_slicesight.score_plot import HEAVY, ScorePlot

    plot = ScorePlot()
    qtbot.addWidget(plot)
    plot.resize(400, 150)
    plot.show_answer(made_up())
    picture = plot.grab().toImage()
    tall, low = (plot.bar(number) for number in range(2))
    assert picture.pixelColor(tall.center().toPoint()) == HEAVY
    assert picture.pixelColor(round(low.center().x()), round(tall.center().y())) != HEAVY
    assert [plot.slice_at(bar.center().x()) for bar in (tall, low)] == [0, 1]
    assert plot.slice_at(3) is None
    assert tall.height() / low.height() == pytest.approx(0.7 / 0.1, rel=0.02)


def test_the_panel_asks_a_model_of_its_own_process(panel, qtbot, tiny_model_folder, tiny_reader, scan_file):
    panel.where.setCurrentIndex(HERE)
    panel.model.setCurrentText(str(tiny_model_folder))
    ask(panel, qtbot)
    answer = panel._asked[0]
    own = own_answer(tiny_reader, scan_file)
    assert (answer.text, answer.scores) == (own.text, pytest.approx(own.scores, abs=1e-6))
    assert answer.heaviest[0].position_mm == pytest.approx(own.slices[0].position_mm)
    assert "trained on synthetic CT only" in panel.answers.toPlainText()
    assert panel.plot.isVisibleTo(panel)


def test_a_wrong_model_or_address_is_one_line_and_the_panel_stays_usable(panel, qtbot):
    panel.where.setCurrentIndex(HERE)
    panel.model.setCurrentText("no-such-model")
    ask(panel, qtbot)
    assert "no-such-model" in panel.status.text()
    panel.model.setCurrentText("")
    ask(panel, qtbot)
    assert "no model is named" in panel.status.text()
    panel.where.setCurrentIndex(ON_SERVER)
    panel.address.setText("http://scans.example")
    ask(panel, qtbot)
    assert "unencrypted" in panel.status.text()
    assert panel.stop_button.isEnabled() is False


def test_the_panel_asks_for_axes_only_where_they_are_unknown(panel, viewer):
    assert not panel.axes.isVisibleTo(panel)
    viewer.add_image(np.zeros((4, 5, 6)), name="array")
    panel.layer.setCurrentText("array")
    assert panel.axes.isVisibleTo(panel)
    panel.ask()
    assert "does not say where its axes grow toward" in panel.status.text()


def test_layers_that_come_and_go_are_listed_and_a_closed_one_is_said(panel, viewer, layer):
    viewer.add_labels(np.zeros((4, 5, 6), int), name="masks")
    assert [panel.layer.itemText(at) for at in range(panel.layer.count())] == ["scan"]
    panel._asked = made_up(), layer_scan(layer), layer
    viewer.layers.remove(layer)
    assert panel.layer.count() == 0
    panel.go_to(0)
    assert "is closed" in panel.status.text()


def made_up(position=(0, 0, 0)):
    from napari_slicesight.answers import ScanAnswer, ScoredSlice

    slices = tuple(
        ScoredSlice(n, score, "axial", (n,), position, f"slice {n}") for n, score in enumerate((0.7, 0.1, 0.1, 0.1))
    )
    return ScanAnswer("?", "made up", slices)


def test_a_scan_without_place_says_that_there_is_nowhere_to_go(panel, layer):
    panel._asked = made_up(None), layer_scan(layer), layer
    panel.go_to(1)
    assert "nowhere to go" in panel.status.text()


def test_masks_of_the_command_line_become_a_labels_layer(panel, qtbot, viewer, layer, tmp_path):
    program = tmp_path / "slicesight"
    program.write_text(
        f"#!{sys.executable}\n"
        "import json, sys\nfrom pathlib import Path\n"
        "from slicesight.io.loading import read_volume\nfrom slicesight.io.masks import write_mask\n"
        "a = sys.argv; scan = Path(a[3]); volume = read_volume(scan)\n"
        "labels = (volume.voxels > 500).astype('int32') * 4\n"
        "write_mask(labels, volume, source=scan, out=Path(a[a.index('--out') + 1]))\n"
        "found = {'structures': [{'name': 'implant', 'value': 4, 'volume_ml': 1.5}]}\n"
        "Path(a[a.index('--json') + 1]).write_text(json.dumps(found))\n"
    )
    program.chmod(0o755)
    panel.program.setText(str(program))
    panel.mask_model.setText("runs/segment")
    panel.outline()
    qtbot.waitUntil(panel.ask_button.isEnabled, timeout=WAIT_MS)
    assert "implant 1.5 ml" in panel.status.text()
    assert np.array_equal(viewer.layers["scan masks"].data == 4, layer.data == 900)


# --- what is shipped -------------------------------------------------------------------------------------------------


def test_the_manifest_is_valid_and_names_what_exists():
    from npe2 import PluginManifest

    manifest = PluginManifest.from_file(PLUGIN / "src" / "napari_slicesight" / "napari.yaml")
    manifest.validate_imports()
    assert [widget.display_name for widget in manifest.contributions.widgets] == ["Ask the scan"]
