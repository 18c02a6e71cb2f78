"""Which calls of 3D Slicer take a scan from its scene, move its slice views, draw scores and show masks?

Every MRML call of the module stands here, so that it can be tried without Slicer's windows (README.md lists them with
their documentation). Places come as LPS millimetres and go to Slicer as RAS.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import slicer
import vtk

from .answers import ScanAnswer
from .masks import Structure
from .scan_file import ScreenScan, ViewerError, to_ras

PREFIX = "slicesight"
BAR_COLOUR, EVEN_COLOUR = (0.16, 0.45, 0.75), (0.75, 0.35, 0.1)


def volume_on_screen() -> Any:
    """The volume node that the slice views show in the background, the first view's first; None where none is shown."""
    for view in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
        node_id = view.GetBackgroundVolumeID()
        if node_id:
            return slicer.mrmlScene.GetNodeByID(node_id)
    return None


def screen_scan(node: Any, *, unit: str = "") -> ScreenScan:
    """The voxels of a volume node, copied, and their place in the world: transforms above it are applied.

    Raises:
        ViewerError: no volume, one of several channels, or a transform above it that bends.
    """
    if node is None or node.GetImageData() is None:
        raise ViewerError("no scan is chosen; load one and choose it.")
    if node.GetImageData().GetNumberOfScalarComponents() != 1:
        raise ViewerError(f"{node.GetName()} has several channels; expected a scan of one, choose another volume.")
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    transform = node.GetParentTransformNode()
    if transform is not None:
        if not transform.IsTransformToWorldLinear():
            raise ViewerError(f"{node.GetName()} lies under a transform that bends it; harden the transform first.")
        to_world = vtk.vtkMatrix4x4()
        transform.GetMatrixTransformToWorld(to_world)
        vtk.vtkMatrix4x4.Multiply4x4(to_world, matrix, matrix)
    ras_from_ijk = slicer.util.arrayFromVTKMatrix(matrix)
    changed = node.GetImageData().GetMTime()
    return ScreenScan(
        np.array(slicer.util.arrayFromVolume(node)),
        ras_from_ijk,
        name=node.GetName() or "scan",
        key=f"{node.GetID()} {changed} {ras_from_ijk.tobytes().hex()}",
        unit=unit,
    )


def jump_to(position_mm: Sequence[float], *, align_with: Any = None) -> None:
    """Move every slice view to a place in LPS millimetres.

    Args:
        align_with: a volume node along whose own slices the views are turned first; None leaves them as they are.
    """
    if align_with is not None:
        for node in slicer.util.getNodesByClass("vtkMRMLSliceNode"):
            node.RotateToVolumePlane(align_with)
    mode = slicer.vtkMRMLSliceNode.OffsetJumpSlice
    slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, *to_ras(position_mm), mode)


def show_scores(answer: ScanAnswer) -> Any:
    """A chart of the answer's scores, one bar a slice and a line where all would weigh alike -> the chart node.

    Later answers use the same nodes, so that a scene does not fill with charts.
    """
    table_node, bars, even, chart = (
        _only_node(f"vtkMRML{kind}Node", f"{PREFIX} {name}")
        for kind, name in (
            ("Table", "scores"),
            ("PlotSeries", "score"),
            ("PlotSeries", "even share"),
            ("PlotChart", "scores of slices"),
        )
    )
    scores = np.array(answer.scores)
    columns = [scores, np.full(len(scores), 1 / max(1, len(scores)))]
    slicer.util.updateTableFromArray(table_node, columns, ["score", "even share"])
    places = vtk.vtkStringArray()
    places.SetName("place")
    for one in answer.slices:
        places.InsertNextValue(one.place)
    table_node.GetTable().AddColumn(places)
    for series, column, kind, colour in (
        (bars, "score", bars.PlotTypeBar, BAR_COLOUR),
        (even, "even share", even.PlotTypeLine, EVEN_COLOUR),
    ):
        series.SetAndObserveTableNodeID(table_node.GetID())
        series.SetYColumnName(column)
        series.SetLabelColumnName("place")
        series.SetPlotType(kind)
        series.SetMarkerStyle(series.MarkerStyleNone)
        series.SetColor(*colour)
    chart.RemoveAllPlotSeriesNodeIDs()
    chart.AddAndObservePlotSeriesNodeID(bars.GetID())
    chart.AddAndObservePlotSeriesNodeID(even.GetID())
    chart.SetTitle(answer.question or "Findings")
    chart.SetXAxisTitle("scored slice, click a bar to go there")
    chart.SetYAxisTitle("score")
    chart.SetLegendVisibility(False)
    return chart


def clicked_slices(series_ids: Any, selections: Any) -> list[int]:
    """The slices behind what was selected in the plot, of its signal `dataSelected`."""
    bars = slicer.mrmlScene.GetFirstNodeByName(f"{PREFIX} score")
    found = []
    for number in range(series_ids.GetNumberOfValues()):
        if bars is not None and series_ids.GetValue(number) == bars.GetID():
            points = selections.GetItemAsObject(number)
            found += [int(points.GetValue(at)) for at in range(points.GetNumberOfValues())]
    return found


def show_masks(labels_KJI: Any, scan: ScreenScan, structures: Sequence[Structure], reference: Any) -> Any:
    """Label values of a mask as segments with their names -> the segmentation node.

    Args:
        labels_KJI: on the scan's own voxels. reference: the volume node that they were made of.

    Raises:
        ViewerError: a mask of another shape than the scan.
    """
    if labels_KJI.shape != scan.voxels.shape:
        raise ViewerError(f"the mask is {labels_KJI.shape}, the scan {scan.voxels.shape}; expected one grid.")
    name = f"{scan.name} {PREFIX}"
    label_map = slicer.util.addVolumeFromArray(
        labels_KJI.astype(np.int16), scan.ras_from_ijk, f"{name} labels", "vtkMRMLLabelMapVolumeNode"
    )
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.CreateDefaultDisplayNodes()
    if reference.GetParentTransformNode() is None:
        node.SetReferenceImageGeometryParameterFromVolumeNode(reference)
    slicer.vtkSlicerSegmentationsModuleLogic.ImportLabelmapToSegmentationNode(label_map, node)
    slicer.mrmlScene.RemoveNode(label_map)
    names = {one.value: one.name for one in structures}
    segmentation = node.GetSegmentation()
    for number in range(segmentation.GetNumberOfSegments()):
        segment = segmentation.GetNthSegment(number)
        segment.SetName(names.get(segment.GetLabelValue(), f"label {segment.GetLabelValue()}"))
    return node


def _only_node(kind: str, name: str) -> Any:
    return slicer.util.getFirstNodeByClassByName(kind, name) or slicer.mrmlScene.AddNewNodeByClass(kind, name)
