"""The 3D Slicer module: its scene calls with a stand-in and with Slicer's own libraries, its panel without windows."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import MagicMock

import fake_slicer
import numpy as np
import pytest

from slicesight.io.loading import read_volume

FOLDER = Path(__file__).resolve().parents[2] / "plugins" / "slicer"


@pytest.fixture
def slicer(monkeypatch):
    return fake_slicer.install(monkeypatch)


@pytest.fixture
def node(slicer, oblique):
    return fake_slicer.add_volume_from_array(*oblique, "oblique")


def at_once(calls):
    """Run what is scheduled for the window's thread until nothing is."""
    until = time.monotonic() + 300
    while calls and time.monotonic() < until:
        calls.pop(0)()


@pytest.fixture
def logic(slicer):
    import Slicesight

    calls = []
    found = Slicesight.SlicesightLogic(schedule=lambda _ms, function: calls.append(function))
    found.calls = calls
    yield found
    found.close()


def ask(logic, node, question="Which phase is this?", **options):
    said = {"answers": [], "refused": [], "texts": [], "ends": []}
    logic.ask(
        node,
        question,
        **{"unit": "", "window": "", "answer_anyway": False, **options},
        on_progress=lambda done, total: None,
        on_text=said["texts"].append,
        on_answer=said["answers"].append,
        on_refused=said["refused"].append,
        on_end=lambda: said["ends"].append(True),
    )
    at_once(logic.calls)
    return said


def own_answer(tiny_reader, oblique, tmp_path):
    from SlicesightLib.scan_file import ScreenScan, write_nifti

    write_nifti(ScreenScan(*oblique), tmp_path / "scan.nii.gz")
    return tiny_reader.ask(read_volume(tmp_path / "scan.nii.gz"), "Which phase is this?", max_new_tokens=160)[0]


# --- the scene -------------------------------------------------------------------------------------------------------


def test_the_self_test_passes_with_the_stand_in(slicer):
    from SlicesightLib import self_test

    self_test.run_all()


def test_the_clicked_bar_leads_the_views_to_the_place_of_our_own_answer(
    logic, node, served, slicer, tiny_reader, oblique, tmp_path
):
    import vtk

    from SlicesightLib import mrml

    own = own_answer(tiny_reader, oblique, tmp_path)
    assert logic.connect(served[0], "", False).name == "tiny-random"
    (answer,) = ask(logic, node)["answers"]
    assert answer.scores == pytest.approx(own.scores, abs=1e-6)
    bars = mrml.show_scores(answer).GetNthPlotSeriesNode(0)
    for theirs in own.slices:
        selected = vtk.vtkCollection([vtk.vtkIdTypeArray([theirs.grid_slice])])
        (number,) = mrml.clicked_slices(vtk.vtkStringArray([bars.GetID()]), selected)
        assert logic.jump_to(number) == answer.slices[number].place
        x, y, z = theirs.position_mm
        for view in slicer.util.getNodesByClass("vtkMRMLSliceNode"):
            in_view = np.linalg.inv(view.matrix) @ (-x, -y, z, 1)
            assert in_view[2] == pytest.approx(0, abs=1e-6), view.GetName()


def test_it_works_in_slicers_own_libraries(served, tiny_reader, oblique, tmp_path):
    """MRML, its logic and VTK as 3D Slicer has them; only its windows are not in that package."""
    if importlib.util.find_spec("slicer_core") is None:
        pytest.skip("slicer-core is not installed; make test-slicer builds an environment with it")
    np.savez(tmp_path / "scan.npz", voxels=oblique[0], matrix=oblique[1])
    paths = [str(FOLDER / "Slicesight"), *filter(None, [os.environ.get("PYTHONPATH")])]
    ran = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("slicer_scene.py")), served[0], str(tmp_path / "scan.npz")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    own = own_answer(tiny_reader, oblique, tmp_path)
    assert found["text"] == own.text
    assert found["place"] == pytest.approx(own.slices[0].position_mm)
    assert set(found["off_mm"]) == {"Red", "Yellow", "Green"}
    assert max(map(abs, found["off_mm"].values())) < 1e-3


def test_a_volume_of_several_channels_or_under_a_bending_transform_is_refused(slicer, node, monkeypatch):
    from SlicesightLib import mrml

    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "bends")
    transform.SetMatrixTransformToParent(None)
    node.SetAndObserveTransformNodeID(transform.GetID())
    with pytest.raises(mrml.ViewerError, match="harden the transform"):
        mrml.screen_scan(node)
    monkeypatch.setattr(node, "GetImageData", lambda: MagicMock(GetNumberOfScalarComponents=lambda: 3))
    with pytest.raises(mrml.ViewerError, match="several channels"):
        mrml.screen_scan(node)


# --- asking and outlining --------------------------------------------------------------------------------------------


def test_what_goes_wrong_is_one_line_in_the_panel(logic, node, served):
    from SlicesightLib.scan_file import ViewerError

    with pytest.raises(ViewerError, match="no server is connected"):
        ask(logic, node)
    logic.connect(served[0], "", False)
    with pytest.raises(ViewerError, match="no scan is chosen"):
        ask(logic, None)
    said = ask(logic, node, window="no-such-window")
    assert said["answers"] == []
    assert len(said["refused"]) == 1
    assert "no-such-window" in said["refused"][0]
    assert said["ends"] == [True]


def test_a_mistake_of_our_own_ends_the_work_too(logic, capsys):
    said = []
    logic.background.start(
        lambda: 1 / 0, on_done=said.append, on_refused=said.append, on_end=lambda: said.append("end")
    )
    at_once(logic.calls)
    assert said == ["ZeroDivisionError: division by zero; the console says where.", "end"]
    assert "Traceback" in capsys.readouterr().err
    assert not logic.background.is_busy


def test_one_question_at_a_time(logic, node, served):
    from SlicesightLib.scan_file import ViewerError

    logic.connect(served[0], "", False)
    logic.background.is_busy = True
    with pytest.raises(ViewerError, match="still being answered"):
        ask(logic, node)


def program(tmp_path, lines):
    """A program that takes the arguments of `slicesight` and does these lines of Python."""
    file = tmp_path / "slicesight"
    file.write_text(f"#!{sys.executable}\nimport sys, time, shutil, json\na = sys.argv\n" + "\n".join(lines) + "\n")
    file.chmod(0o755)
    return str(file)


def outline(logic, node, slicer, name, **options):
    slicer.util.launchConsoleProcess = lambda command: subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    said = {"lines": [], "masks": [], "refused": [], "ends": []}
    logic.outline(
        node,
        **{"model": "runs/segment", "program": name, **options},
        on_line=said["lines"].append,
        on_masks=lambda *found: said["masks"].append(found),
        on_refused=said["refused"].append,
        on_end=lambda: said["ends"].append(True),
    )
    return said


def test_masks_of_the_command_line_become_named_segments(logic, node, slicer, tmp_path, oblique):
    name = program(
        tmp_path,
        [
            "from slicesight.io.loading import read_volume",
            "from slicesight.io.masks import write_mask",
            "from pathlib import Path",
            "scan = Path(a[3]); volume = read_volume(scan)",
            "labels = (volume.voxels > 500).astype('int32') * 4",
            "write_mask(labels, volume, source=scan, out=Path(a[a.index('--out') + 1]))",
            "found = {'structures': [{'name': 'implant', 'value': 4, 'volume_ml': 1.5}]}",
            "open(a[a.index('--json') + 1], 'w').write(json.dumps(found))",
            "print('segmenting: 3')",
        ],
    )
    said = outline(logic, node, slicer, name)
    at_once(logic.calls)
    assert said["refused"] == []
    ((found, structures),) = said["masks"]
    assert said["lines"] == ["segmenting: 3"]
    (segment,) = found.segments
    assert segment.GetName() == structures[0].name == "implant"
    assert np.array_equal(segment.labels, oblique[0] == 900)


def test_a_failing_program_is_heard_in_its_own_last_line(logic, node, slicer, tmp_path):
    said = outline(logic, node, slicer, program(tmp_path, ["print('slicesight: no such model'); sys.exit(2)"]))
    at_once(logic.calls)
    assert said["refused"] == ["outlining failed: slicesight: no such model"]


def test_a_silent_program_can_be_called_off(logic, node, slicer, tmp_path):
    began = time.monotonic()
    said = outline(logic, node, slicer, program(tmp_path, ["time.sleep(600)"]))
    logic.background.stop()
    at_once(logic.calls)
    assert said["refused"] == ["outlining was called off."]
    assert time.monotonic() - began < 100


# --- the panel -------------------------------------------------------------------------------------------------------


@pytest.fixture
def panel(slicer, logic, monkeypatch):
    import Slicesight

    monkeypatch.setattr(Slicesight, "SlicesightLogic", lambda: logic)
    found = Slicesight.SlicesightWidget()
    found.setup()
    return found


def test_the_panel_connects_asks_shows_and_jumps(panel, logic, node, served, slicer):
    panel.address.text, panel.token.text, panel.allow_plain_http.checked = served[0], "", False
    panel.onConnect()
    assert panel.server_says.text.startswith("tiny-random answers.\nFor research use only.")
    slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")[0].SetBackgroundVolumeID(node.GetID())
    panel.enter()
    panel.scan_selector.setCurrentNode.assert_called_with(node)
    panel.scan_selector.currentNode.return_value = node
    panel.question.text, panel.answer_anyway.checked, panel.align.checked = "Which phase is this?", False, False
    panel.unit.currentIndex = panel.window.currentIndex = 0
    panel.onAsk()
    assert panel.ask_button.enabled is False
    at_once(logic.calls)
    assert panel.ask_button.enabled is True
    html = panel.answers.setHtml.call_args[0][0]
    assert "Which phase is this?" in html
    assert "For research use only" in html
    assert slicer.modules.plots.logic().ShowChartInLayout.called
    panel.onSliceClicked(2, 0)
    assert panel.status.text == logic.answer.heaviest[2].place


def test_the_panel_says_what_is_wrong_and_stays_usable(panel, logic):
    panel.address.text, panel.token.text, panel.allow_plain_http.checked = "http://scans.example", "", False
    panel.onConnect()
    assert "unencrypted" in panel.server_says.text
    panel.scan_selector.currentNode.return_value = None
    panel.ask_button.enabled = True
    panel.onAsk()
    assert "no server is connected" in panel.status.text
    assert panel.ask_button.enabled is True


def test_leaving_takes_the_scan_off_the_server(panel, logic, node, served):
    before = len(served[1].scan_store.volume_ids())
    logic.connect(served[0], "", False)
    ask(logic, node)
    assert len(served[1].scan_store.volume_ids()) == before + 1
    panel.cleanup()
    assert len(served[1].scan_store.volume_ids()) == before


# --- what is shipped -------------------------------------------------------------------------------------------------


def test_the_build_lists_every_file_of_the_module():
    listed = (FOLDER / "Slicesight" / "CMakeLists.txt").read_text(encoding="utf-8")
    files = {path.relative_to(FOLDER / "Slicesight").as_posix() for path in (FOLDER / "Slicesight").rglob("*.py")}
    assert {name for name in files if name.replace("Slicesight.py", "${MODULE_NAME}.py") not in listed} == set()
    assert set(re.findall(r"SlicesightLib/\w+\.py", listed)) <= files


def test_every_call_of_slicer_is_listed_with_its_documentation():
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    source = (FOLDER / "Slicesight" / "SlicesightLib" / "mrml.py").read_text(encoding="utf-8")
    called = {
        node.func.attr
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr[0].isupper()
    }
    called |= set(re.findall(r"slicer\.util\.(\w+)", source))
    assert len(called) > 30
    assert {name for name in called if f"`{name}`" not in readme} == set()


def test_the_module_is_written_for_slicers_older_python():
    for file in (FOLDER / "Slicesight").rglob("*.py"):
        ast.parse(file.read_text(encoding="utf-8"), feature_version=(3, 9))
