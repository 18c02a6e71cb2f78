"""Do the scene's calls do what they should in this Slicer? Run by its self-test, and by our own tests without windows.

No server is needed: an oblique volume goes in, an answer is made up, and places, bars and masks are looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import slicer
import vtk

from . import mrml
from .answers import ScanAnswer
from .masks import Structure
from .scan_file import ViewerError

_CLOSE_MM = 1e-3


def run_all() -> None:
    """Each check on nodes of its own, which are removed again.

    Raises:
        AssertionError: a call does something else here.
    """
    matrix = oblique_matrix()
    voxels = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    node = slicer.util.addVolumeFromArray(voxels, matrix, "slicesight self-test")
    check_on_screen(node)
    check_scan(node, voxels, matrix)
    check_jump(node)
    check_scores()
    check_masks(node, voxels)
    slicer.mrmlScene.RemoveNode(node)


def oblique_matrix() -> Any:
    """RAS from IJK of slices tilted by 20 degrees, and of three spacings."""
    turn = np.radians(20)
    matrix = np.eye(4)
    matrix[:3, :3] = np.array([[1, 0, 0], [0, np.cos(turn), -np.sin(turn)], [0, np.sin(turn), np.cos(turn)]])
    matrix[:3, :3] *= (-0.8, -0.9, 2.5)
    matrix[:3, 3] = 12.0, -30.5, 44.25
    return matrix


def check_on_screen(node: Any) -> None:
    """What a slice view shows is what is asked about."""
    views = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
    before = [view.GetBackgroundVolumeID() for view in views]
    for view in views:
        view.SetBackgroundVolumeID(None)
    assert mrml.volume_on_screen() is None, "nothing is shown"
    views[-1].SetBackgroundVolumeID(node.GetID())
    assert mrml.volume_on_screen().GetID() == node.GetID(), "shown"
    for view, node_id in zip(views, before):
        view.SetBackgroundVolumeID(node_id)


def check_scan(node: Any, voxels: Any, matrix: Any) -> None:
    """Voxels and place are those of the node; a transform above it moves the place, one that bends is refused."""
    scan = mrml.screen_scan(node, unit="HU")
    assert np.array_equal(scan.voxels, voxels), "voxels"
    assert np.allclose(scan.ras_from_ijk, matrix, atol=_CLOSE_MM), "place"
    ijk = 2.0, 1.0, 3.0
    r, a, s = (matrix @ (*ijk, 1.0))[:3]
    assert np.allclose(scan.ijk_at((-r, -a, s)), ijk, atol=_CLOSE_MM), "voxel at a place"
    moved = vtk.vtkMatrix4x4()
    moved.SetElement(0, 3, 7.0)
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "slicesight self-test move")
    transform.SetMatrixTransformToParent(moved)
    node.SetAndObserveTransformNodeID(transform.GetID())
    after = mrml.screen_scan(node)
    assert np.allclose(after.ras_from_ijk[:3, 3] - scan.ras_from_ijk[:3, 3], (7, 0, 0), atol=_CLOSE_MM), "transform"
    assert after.key != scan.key, "a moved scan is another scan"
    node.SetAndObserveTransformNodeID(None)
    slicer.mrmlScene.RemoveNode(transform)
    try:
        mrml.screen_scan(None)
    except ViewerError:
        return
    raise AssertionError("no scan is refused")


def check_jump(node: Any) -> None:
    """Every slice view passes through the place, whichever way it looks, turned along the scan or not."""
    ras = (mrml.screen_scan(node).ras_from_ijk @ (2.0, 1.0, 3.0, 1.0))[:3]
    lps = -ras[0], -ras[1], ras[2]
    for align_with in (None, node):
        mrml.jump_to(lps, align_with=align_with)
        views = slicer.util.getNodesByClass("vtkMRMLSliceNode")
        assert views, "there are slice views"
        for view in views:
            to_view = np.linalg.inv(slicer.util.arrayFromVTKMatrix(view.GetSliceToRAS()))
            depth = (to_view @ (*ras, 1.0))[2]
            assert abs(depth) < _CLOSE_MM, f"{view.GetName()} is {depth} mm off"


def check_scores() -> None:
    """The chart's bars are the scores, and a click on one leads to its slice; a second answer uses the same nodes."""
    chart = mrml.show_scores(made_up_answer((0.1, 0.6, 0.3)))
    chart = mrml.show_scores(made_up_answer((0.5, 0.25, 0.15, 0.1)))
    assert len(slicer.util.getNodesByClass("vtkMRMLPlotChartNode")) == 1, "one chart"
    assert chart.GetNumberOfPlotSeriesNodes() == 2, "two series"
    bars = chart.GetNthPlotSeriesNode(0)
    table = bars.GetTableNode().GetTable()
    column = table.GetColumnByName(bars.GetYColumnName())
    heights = [column.GetValue(row) for row in range(table.GetNumberOfRows())]
    assert np.allclose(heights, (0.5, 0.25, 0.15, 0.1)), "heights"
    assert table.GetColumnByName("place").GetValue(1) == "axial, slice 1, z 5 mm", "what a bar is called"
    series, points, clicked = vtk.vtkStringArray(), vtk.vtkIdTypeArray(), vtk.vtkCollection()
    series.InsertNextValue(bars.GetID())
    points.InsertNextValue(2)
    clicked.AddItem(points)
    assert mrml.clicked_slices(series, clicked) == [2], "click"
    other = vtk.vtkStringArray()
    other.InsertNextValue(chart.GetNthPlotSeriesNode(1).GetID())
    assert mrml.clicked_slices(other, clicked) == [], "a click on the line of even shares"


def check_masks(node: Any, voxels: Any) -> None:
    """Each label is a segment under its own name, on the voxels it was made on."""
    scan = mrml.screen_scan(node)
    labels = np.zeros_like(voxels)
    labels[1, 2, 3], labels[2, 1:4, 2] = 2, 7
    found = mrml.show_masks(labels, scan, [Structure("heart", 7), Structure("liver", 2)], node)
    segmentation = found.GetSegmentation()
    names = [segmentation.GetNthSegment(number).GetName() for number in range(segmentation.GetNumberOfSegments())]
    assert sorted(names) == ["heart", "liver"], names
    for name, value in (("heart", 7), ("liver", 2)):
        segment = segmentation.GetSegmentIdBySegmentName(name)
        own = slicer.util.arrayFromSegmentBinaryLabelmap(found, segment, node)
        assert np.array_equal(own > 0, labels == value), name
    assert not slicer.util.getNodesByClass("vtkMRMLLabelMapVolumeNode"), "no label map is left"
    slicer.mrmlScene.RemoveNode(found)
    try:
        mrml.show_masks(labels[:2], scan, [], node)
    except ViewerError:
        return
    raise AssertionError("a mask of another shape is refused")


def made_up_answer(scores: Sequence[float]) -> ScanAnswer:
    """An answer with one axial slice a score, 5 mm apart."""
    slices = [
        {"grid_slice": number, "score": score, "source_slices": [number], "position_mm": [0, 0, 5 * number],
         "plane": "axial"}
        for number, score in enumerate(scores)
    ]  # fmt: skip
    empty = dict.fromkeys(("confidence", "confidence_note", "abstained", "would_say"))
    message = {"content": "made up", "slices": slices, "evidence": "scores", "evidence_summary": "",
               "evidence_caveat": "", **empty}  # fmt: skip
    return ScanAnswer.from_message("made up?", message, finish_reason="stop", notices=[])
