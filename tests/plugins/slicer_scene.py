"""Run with Slicer's own libraries (the package slicer-core): the self-test, then a question asked of a live server.

Arguments: the server's address, a .npz with voxels and matrix. Prints JSON: what was asked, where each view went.
"""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import numpy as np
import slicer
import slicer.util


def make_scene():
    """What the application makes at its start: a scene with three slice views, and the module's logic by its name."""
    slicer.mrmlScene = slicer.vtkMRMLScene()
    logic = slicer.vtkSlicerSegmentationsModuleLogic()
    slicer.modules = SimpleNamespace(segmentations=SimpleNamespace(logic=lambda: logic))
    for name, turn in (("Red", "Axial"), ("Yellow", "Sagittal"), ("Green", "Coronal")):
        node = slicer.vtkMRMLSliceNode()
        node.SetName(name)
        node.SetLayoutName(name)
        slicer.mrmlScene.AddNode(node)
        getattr(node, f"SetOrientationTo{turn}")()
        shown = slicer.vtkMRMLSliceCompositeNode()
        shown.SetLayoutName(name)
        slicer.mrmlScene.AddNode(shown)


def main(address: str, file: str) -> None:
    from SlicesightLib import mrml, self_test
    from SlicesightLib.client import Server, Session

    make_scene()
    self_test.run_all()
    with np.load(file) as found:
        node = slicer.util.addVolumeFromArray(found["voxels"], found["matrix"], "oblique")
    session = Session(Server(address))
    answer = session.ask(mrml.screen_scan(node), "Which phase is this?")
    session.close()
    mrml.show_scores(answer)
    place = x, y, z = answer.heaviest[0].position_mm
    mrml.jump_to(place)
    views = {}
    for view in slicer.util.getNodesByClass("vtkMRMLSliceNode"):
        to_view = np.linalg.inv(slicer.util.arrayFromVTKMatrix(view.GetSliceToRAS()))
        views[view.GetName()] = (to_view @ (-x, -y, z, 1.0))[2]
    print(json.dumps({"text": answer.text, "scores": answer.scores, "place": place, "off_mm": views}))


if __name__ == "__main__":
    main(*sys.argv[1:])
