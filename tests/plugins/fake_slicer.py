"""A stand-in for `slicer`, `vtk`, `qt` and `ctk`: no more of them than the module calls, by their documented behaviour.

`SlicesightLib/self_test.py` passes with it and with Slicer's own libraries, which holds the two against each other.
"""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from unittest.mock import MagicMock

import numpy as np

MODULES = ("slicer", "slicer.util", "slicer.ScriptedLoadableModule", "vtk", "qt", "ctk")


class Matrix:
    """vtkMatrix4x4."""

    def __init__(self, array=None):
        self.array = np.eye(4) if array is None else np.array(array, float)

    def SetElement(self, row, column, value):
        self.array[row, column] = value

    @staticmethod
    def Multiply4x4(one, other, out):
        out.array = one.array @ other.array


class Values:
    """vtkStringArray, vtkIdTypeArray, vtkCollection."""

    def __init__(self, values=(), name=""):
        self.values, self.name = list(values), name

    def InsertNextValue(self, value):
        self.values.append(value)

    AddItem = InsertNextValue

    def SetName(self, name):
        self.name = name

    def GetValue(self, number):
        return self.values[number]

    GetItemAsObject = GetValue

    def GetNumberOfValues(self):
        return len(self.values)


class Node:
    """A node of the scene: SetX keeps what GetX gives back."""

    count = 0

    def __init__(self, kind, name=""):
        Node.count += 1
        self.kind, self.id, self.kept = kind, f"{kind}{Node.count}", {"Name": name}

    def GetID(self):
        return self.id

    def __getattr__(self, name):
        if name.startswith("Set"):
            return lambda *values: self.kept.__setitem__(name[3:], values[0] if len(values) == 1 else values)
        if name.startswith("Get") and name[3:] in self.kept:
            return lambda: self.kept[name[3:]]
        raise AttributeError(f"{self.kind} has no {name} here")


class Transform(Node):
    def SetMatrixTransformToParent(self, matrix):
        self.kept["Matrix"] = matrix

    def IsTransformToWorldLinear(self):
        return self.kept["Matrix"] is not None

    def GetMatrixTransformToWorld(self, out):
        out.array = self.kept["Matrix"].array.copy()


class Volume(Node):
    transform = None

    def fill(self, voxels, matrix):
        self.voxels, self.matrix = voxels.copy(), np.array(matrix, float)
        self.changed = 1

    def GetImageData(self):
        return SimpleNamespace(GetNumberOfScalarComponents=lambda: 1, GetMTime=lambda: self.changed)

    def GetIJKToRASMatrix(self, out):
        out.array = self.matrix.copy()

    def GetParentTransformNode(self):
        return self.transform

    def SetAndObserveTransformNodeID(self, node_id):
        self.transform = next((node for node in scene().nodes if node.id == node_id), None)


class SliceView(Node):
    def __init__(self, kind, name, directions):
        super().__init__(kind, name)
        self.matrix = np.eye(4)
        self.matrix[:3, :3] = directions

    def GetSliceToRAS(self):
        return Matrix(self.matrix)

    def RotateToVolumePlane(self, node):
        columns = node.matrix[:3, :3] / np.linalg.norm(node.matrix[:3, :3], axis=0)
        self.matrix[:3, :3] = columns


class Table(Node):
    columns: dict

    def GetTable(self):
        return self

    def AddColumn(self, values):
        self.columns[values.name] = values

    def GetColumnByName(self, name):
        return self.columns[name]

    def GetNumberOfRows(self):
        return min(len(column.values) for column in self.columns.values())


class Series(Node):
    PlotTypeBar, PlotTypeLine, MarkerStyleNone = "bar", "line", "none"

    def GetTableNode(self):
        return next(node for node in scene().nodes if node.id == self.kept["AndObserveTableNodeID"])


class Chart(Node):
    def RemoveAllPlotSeriesNodeIDs(self):
        self.series = []

    def AddAndObservePlotSeriesNodeID(self, node_id):
        self.series.append(next(node for node in scene().nodes if node.id == node_id))

    def GetNumberOfPlotSeriesNodes(self):
        return len(self.series)

    def GetNthPlotSeriesNode(self, number):
        return self.series[number]


class Segmentation(Node):
    def CreateDefaultDisplayNodes(self):
        self.segments = []

    def GetSegmentation(self):
        return self

    def GetNumberOfSegments(self):
        return len(self.segments)

    def GetNthSegment(self, number):
        return self.segments[number]

    def GetSegmentIdBySegmentName(self, name):
        return next(segment.id for segment in self.segments if segment.GetName() == name)


class Segment(Node):
    def __init__(self, labels, value):
        super().__init__("Segment", f"Segment_{value}")
        self.labels, self.kept["LabelValue"] = labels == value, value


class SegmentationsLogic:
    @staticmethod
    def ImportLabelmapToSegmentationNode(label_map, node):
        node.segments = [Segment(label_map.voxels, int(value)) for value in np.unique(label_map.voxels) if value]


KINDS = {
    "vtkMRMLScalarVolumeNode": Volume,
    "vtkMRMLLabelMapVolumeNode": Volume,
    "vtkMRMLLinearTransformNode": Transform,
    "vtkMRMLTableNode": Table,
    "vtkMRMLPlotSeriesNode": Series,
    "vtkMRMLPlotChartNode": Chart,
    "vtkMRMLSegmentationNode": Segmentation,
}


class Scene:
    def __init__(self):
        looks = {"Red": np.diag([-1.0, 1, 1]), "Yellow": [[0, 0, 1], [-1, 0, 0], [0, 1, 0]],
                 "Green": [[-1, 0, 0], [0, 0, 1], [0, 1, 0]]}  # fmt: skip
        self.nodes = [SliceView("vtkMRMLSliceNode", name, look) for name, look in looks.items()]
        self.nodes += [Node("vtkMRMLSliceCompositeNode", name) for name in looks]
        for node in self.nodes[3:]:
            node.SetBackgroundVolumeID(None)

    def AddNewNodeByClass(self, kind, name=""):
        self.nodes.append(KINDS[kind](kind, name))
        return self.nodes[-1]

    def RemoveNode(self, node):
        self.nodes.remove(node)

    def GetNodeByID(self, node_id):
        return next((node for node in self.nodes if node.id == node_id), None)

    def GetFirstNodeByName(self, name):
        return next((node for node in self.nodes if node.GetName() == name), None)


def scene():
    return sys.modules["slicer"].mrmlScene


def jump_all_slices(where, r, a, s, mode):
    """As vtkMRMLSliceNode::JumpSliceByOffsetting: only along each view's own direction."""
    assert mode == "offset"
    for view in where.nodes:
        if isinstance(view, SliceView):
            normal = view.matrix[:3, 2]
            view.matrix[:3, 3] += normal * (normal @ (np.array([r, a, s]) - view.matrix[:3, 3]))


def add_volume_from_array(voxels, matrix=None, name="", kind="vtkMRMLScalarVolumeNode"):
    node = scene().AddNewNodeByClass(kind, name)
    node.fill(voxels, matrix)
    return node


def update_table_from_array(node, columns, names):
    node.columns = {name: Values(list(column), name) for name, column in zip(names, columns, strict=True)}


def install(monkeypatch):
    """Put the stand-ins where `import slicer` finds them, with an empty scene and three slice views."""
    slicer, util, scripted, vtk = (ModuleType(name) for name in MODULES[:4])
    slicer.mrmlScene = Scene()
    slicer.util = util
    slicer.vtkMRMLSliceNode = SimpleNamespace(JumpAllSlices=jump_all_slices, OffsetJumpSlice="offset")
    slicer.vtkSlicerSegmentationsModuleLogic = SegmentationsLogic
    slicer.modules, slicer.app, slicer.qMRMLNodeComboBox = MagicMock(), MagicMock(), MagicMock()
    util.arrayFromVolume = lambda node: node.voxels
    util.arrayFromVTKMatrix = lambda matrix: matrix.array
    util.addVolumeFromArray = add_volume_from_array
    util.updateTableFromArray = update_table_from_array
    util.getNodesByClass = lambda kind: [node for node in scene().nodes if node.kind == kind]
    util.getFirstNodeByClassByName = lambda kind, name: next(
        (node for node in scene().nodes if (node.kind, node.GetName()) == (kind, name)), None
    )
    util.arrayFromSegmentBinaryLabelmap = lambda node, segment_id, _: next(
        segment.labels for segment in node.segments if segment.id == segment_id
    )
    util.settingsValue = lambda _key, default: default
    vtk.vtkMatrix4x4, vtk.vtkStringArray, vtk.vtkIdTypeArray, vtk.vtkCollection = Matrix, Values, Values, Values
    for name in ("", "Logic", "Widget", "Test"):
        setattr(
            scripted,
            f"ScriptedLoadableModule{name}",
            type(f"Base{name}", (), {"__init__": _base_init, "setup": _nothing}),
        )
    for name, module in zip(MODULES, (slicer, util, scripted, vtk, Widgets("qt"), Widgets("ctk")), strict=True):
        monkeypatch.setitem(sys.modules, name, module)
    for name in ("SlicesightLib.mrml", "SlicesightLib.self_test", "Slicesight"):
        monkeypatch.delitem(sys.modules, name, raising=False)
        if "." in name:  # `from SlicesightLib import mrml` would find the one of the test before there
            monkeypatch.delattr(name, raising=False)
    return slicer


class Widgets(ModuleType):
    """qt and ctk: every name is a kind of widget, every call makes one of its own that takes whatever is done to it."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        setattr(self, name, MagicMock(name=name, side_effect=lambda *_, **__: MagicMock(name=name)))
        return getattr(self, name)


def _base_init(self, parent=None):
    self.parent, self.layout = parent, MagicMock()


def _nothing(self):
    pass
