"""How does somebody in 3D Slicer ask the scan on screen? A scripted module over a `slicesight serve`.

Windows only; what is done stands in SlicesightLib: `client.py` asks, `mrml.py` shows. The classes and their methods are
those that Slicer looks for (its template: Utilities/Templates/Modules/Scripted in github.com/Slicer/Slicer).
"""

from __future__ import annotations

import os

import ctk
import qt
import slicer
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)

from SlicesightLib import mrml
from SlicesightLib.answers import answer_html
from SlicesightLib.background import Background
from SlicesightLib.client import Server, Session
from SlicesightLib.masks import outline
from SlicesightLib.scan_file import ViewerError

RESEARCH_NOTICE = "For research use only. Not a medical device: no answer here may guide a diagnosis or a treatment."
SELECTED = "dataSelected(vtkStringArray*, vtkCollection*)"
SETTINGS = "Slicesight/"
TOKEN_VARIABLE = "SLICESIGHT_TOKEN"  # noqa: S105  # a variable's name


class Slicesight(ScriptedLoadableModule):
    """What the list of modules says."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = "Slicesight"
        self.parent.categories = ["Informatics", "Quantification"]
        self.parent.dependencies = ["Plots", "Segmentations"]
        self.parent.contributors = ["The slicesight authors"]
        self.parent.helpText = (
            "Ask questions of the scan on screen and see which slices weigh most in each answer. Start "
            "<tt>slicesight serve</tt> on this or another machine, give its address, ask. " + RESEARCH_NOTICE
        )
        self.parent.acknowledgementText = "Med-2E3 and Med3DInsight are the methods behind the answers."


class SlicesightLogic(ScriptedLoadableModuleLogic):
    """One connection, one scan kept by the server, the last answer."""

    def __init__(self, schedule=None):
        ScriptedLoadableModuleLogic.__init__(self)
        self.background = Background(schedule or qt.QTimer.singleShot)
        self.session = None
        self.answer = None
        self.scan_node = None

    def connect(self, address, token, allow_plain_http):
        """Leave the server before, meet another -> what it runs.

        Raises:
            ViewerError: nobody answers there.
        """
        server = Server(address, token=token, allow_plain_http=allow_plain_http)
        model = server.model()
        self.close()
        self.session = Session(server)
        return model

    def ask(self, node, question, *, unit, window, answer_anyway, on_progress, on_text, on_answer, on_refused, on_end):
        """Ask in the background; the functions are called in the window's thread.

        Raises:
            ViewerError: not connected, no scan, or something is still at work.
        """
        if self.session is None:
            raise ViewerError("no server is connected; give its address and press Connect.")
        scan = mrml.screen_scan(node, unit=unit)
        work, session = self.background, self.session
        progress, text = work.reporter(on_progress), work.reporter(on_text)

        def done(answer):
            self.answer, self.scan_node = answer, node
            on_answer(answer)

        work.start(
            lambda: session.ask(
                scan,
                question,
                window=window,
                answer_anyway=answer_anyway,
                on_progress=progress,
                on_text=text,
                is_stopped=work.is_stopped,
            ),
            on_done=done,
            on_refused=on_refused,
            on_end=on_end,
        )

    def outline(self, node, *, model, program, on_line, on_masks, on_refused, on_end):
        """Have the command line outline structures, in the background, and show them as a segmentation.

        Raises:
            ViewerError: no scan, program or model, or something is still at work.
        """
        scan = mrml.screen_scan(node)
        work = self.background
        line = work.reporter(on_line)

        def done(found):
            labels, structures = found
            on_masks(mrml.show_masks(labels, scan, structures, node), structures)

        work.start(
            lambda: outline(
                scan,
                program=program,
                model=model,
                launch=slicer.util.launchConsoleProcess,
                on_line=line,
                is_stopped=work.is_stopped,
            ),
            on_done=done,
            on_refused=on_refused,
            on_end=on_end,
        )

    def jump_to(self, number, *, align=False):
        """Move the slice views to a slice of the last answer; returns what it is called, None where it has no place."""
        if self.answer is None or not 0 <= number < len(self.answer.slices):
            return None
        found = self.answer.slices[number]
        if found.position_mm is None:
            return None
        mrml.jump_to(found.position_mm, align_with=self.scan_node if align else None)
        return found.place

    def close(self):
        """Leave no scan on the server."""
        session, self.session = self.session, None
        if session is not None:
            try:
                session.close()
            except ViewerError as error:
                print(f"Slicesight: {error}")  # the server is gone, and what it kept goes with its time


class SlicesightWidget(ScriptedLoadableModuleWidget):
    """The panel."""

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        self.logic = SlicesightLogic()
        self._plot_view = None
        self._shown = []
        self._build_server()
        self._build_question()
        self._build_masks()
        self.layout.addStretch(1)

    def enter(self):
        """What is on screen is chosen whenever the panel opens."""
        node = mrml.volume_on_screen()
        if node is not None:
            self.scan_selector.setCurrentNode(node)

    def cleanup(self):
        self.logic.background.stop()
        self._watch_plot(None)
        self.logic.close()

    # --- the panel's parts ---

    def _section(self, title, *, is_open=True):
        section = ctk.ctkCollapsibleButton()
        section.text = title
        section.collapsed = not is_open
        self.layout.addWidget(section)
        return qt.QFormLayout(section)

    def _build_server(self):
        form = self._section("Server")
        self.address = qt.QLineEdit(slicer.util.settingsValue(SETTINGS + "address", "http://127.0.0.1:8000"))
        self.address.toolTip = "The address that slicesight serve printed"
        self.token = qt.QLineEdit(os.environ.get(TOKEN_VARIABLE, ""))
        self.token.setEchoMode(qt.QLineEdit.Password)
        self.token.toolTip = f"Of a server that wants one; not kept. {TOKEN_VARIABLE} of the environment fills it in"
        self.allow_plain_http = qt.QCheckBox("send scans unencrypted to another machine")
        self.connect_button = qt.QPushButton("Connect")
        self.connect_button.connect("clicked(bool)", self.onConnect)
        self.server_says = qt.QLabel("Not connected.")
        self.server_says.setWordWrap(True)
        form.addRow("Address", self.address)
        form.addRow("Token", self.token)
        form.addRow("http://", self.allow_plain_http)
        form.addRow(self.connect_button)
        form.addRow(self.server_says)

    def _build_question(self):
        form = self._section("Question")
        self.scan_selector = slicer.qMRMLNodeComboBox()
        self.scan_selector.nodeTypes = ["vtkMRMLScalarVolumeNode"]
        self.scan_selector.addEnabled = self.scan_selector.removeEnabled = False
        self.scan_selector.setMRMLScene(slicer.mrmlScene)
        self.unit = qt.QComboBox()
        self.unit.addItems(["found out by values", "HU", "arbitrary"])
        self.window = qt.QComboBox()
        self.window.addItems(["the model's own"])
        self.question = qt.QLineEdit()
        self.question.setPlaceholderText("Is there a lesion in the liver? Empty: describe the findings")
        self.question.connect("returnPressed()", self.onAsk)
        self.answer_anyway = qt.QCheckBox("answer also where the model is not sure")
        self.align = qt.QCheckBox("turn the views along the scan's own slices")
        self.ask_button, self.stop_button = qt.QPushButton("Ask"), qt.QPushButton("Stop")
        self.ask_button.connect("clicked(bool)", self.onAsk)
        self.stop_button.connect("clicked(bool)", lambda _checked: self.logic.background.stop())
        self.stop_button.enabled = False
        buttons = qt.QHBoxLayout()
        buttons.addWidget(self.ask_button)
        buttons.addWidget(self.stop_button)
        self.status, notice = qt.QLabel(), qt.QLabel(RESEARCH_NOTICE)
        for line in (self.status, notice):
            line.setWordWrap(True)
        self.answers = qt.QTextBrowser()
        self.answers.setMinimumHeight(220)
        self.slices = qt.QTableWidget()
        self.slices.setColumnCount(2)
        self.slices.setHorizontalHeaderLabels(["Slice", "Score"])
        self.slices.setEditTriggers(qt.QAbstractItemView.NoEditTriggers)
        self.slices.setSelectionBehavior(qt.QAbstractItemView.SelectRows)
        self.slices.horizontalHeader().setSectionResizeMode(0, qt.QHeaderView.Stretch)
        self.slices.toolTip = "The heaviest first; click to go there"
        self.slices.connect("cellClicked(int,int)", self.onSliceClicked)
        for label, widget in (
            ("Scan", self.scan_selector), ("Values", self.unit), ("Window", self.window), ("Question", self.question),
        ):  # fmt: skip
            form.addRow(label, widget)
        for widget in (self.answer_anyway, self.align, buttons, self.status, self.answers, self.slices, notice):
            form.addRow(widget)

    def _build_masks(self):
        form = self._section("Outlines", is_open=False)
        self.mask_model = ctk.ctkPathLineEdit()
        self.mask_model.filters = ctk.ctkPathLineEdit.Dirs
        self.mask_model.toolTip = "A folder that slicesight insight segment wrote"
        self.program = qt.QLineEdit(slicer.util.settingsValue(SETTINGS + "program", "slicesight"))
        self.program.toolTip = "The command line on this machine; the server makes no masks"
        self.outline_button = qt.QPushButton("Outline structures")
        self.outline_button.connect("clicked(bool)", self.onOutline)
        form.addRow("Model", self.mask_model)
        form.addRow("Program", self.program)
        form.addRow(self.outline_button)

    # --- what happens ---

    def onConnect(self, _checked=False):
        try:
            model = self.logic.connect(self.address.text, self.token.text, self.allow_plain_http.checked)
        except ViewerError as error:
            self.server_says.text = str(error)
            return
        qt.QSettings().setValue(SETTINGS + "address", self.address.text)
        self.server_says.text = "\n".join((f"{model.name} answers.", *model.notices))
        self.window.clear()
        self.window.addItems(["the model's own", *model.windows])

    def onAsk(self, _checked=False):
        unit, window = self.unit.currentText, self.window.currentText
        self._begin(
            lambda: self.logic.ask(
                self.scan_selector.currentNode(),
                self.question.text,
                unit=unit if self.unit.currentIndex else "",
                window=window if self.window.currentIndex else "",
                answer_anyway=self.answer_anyway.checked,
                on_progress=lambda done, total: self._say(f"sending the scan: {done / total:.0%}"),
                on_text=self._say,
                on_answer=self.showAnswer,
                on_refused=self._say,
                on_end=self._end,
            )
        )

    def onOutline(self, _checked=False):
        qt.QSettings().setValue(SETTINGS + "program", self.program.text)
        self._begin(
            lambda: self.logic.outline(
                self.scan_selector.currentNode(),
                model=self.mask_model.currentPath,
                program=self.program.text,
                on_line=self._say,
                on_masks=self.showMasks,
                on_refused=self._say,
                on_end=self._end,
            )
        )

    def showAnswer(self, answer):
        """Newest on top, its scores in table and chart."""
        self._say("")
        self._shown.insert(0, answer_html(answer))
        self.answers.setHtml("<hr>".join(self._shown))
        heaviest = answer.heaviest
        self.slices.setRowCount(len(heaviest))
        for row, one in enumerate(heaviest):
            self.slices.setItem(row, 0, qt.QTableWidgetItem(one.place))
            self.slices.setItem(row, 1, qt.QTableWidgetItem(f"{one.score:.3f}"))
        if heaviest:
            slicer.modules.plots.logic().ShowChartInLayout(mrml.show_scores(answer))
            plot = slicer.app.layoutManager().plotWidget(0)
            self._watch_plot(None if plot is None else plot.plotView())

    def showMasks(self, node, structures):
        """Say how large each structure is; the segmentation is on screen already."""
        sizes = [f"{one.name}: {one.volume_ml:.1f} ml" if one.volume_ml is not None else one.name for one in structures]
        self._say(
            f"{node.GetName()}: {', '.join(sizes) or 'nothing was found'}. Look at the outlines before you use them."
        )

    def onSliceClicked(self, row, _column):
        self._jump(self.logic.answer.heaviest[row].number)

    def onBarClicked(self, series_ids, selections):
        for number in mrml.clicked_slices(series_ids, selections)[:1]:
            self._jump(number)

    def _jump(self, number):
        place = self.logic.jump_to(number, align=self.align.checked)
        self._say(place or "This scan has no place in the patient, so there is nowhere to go.")

    def _watch_plot(self, view):
        if self._plot_view is not None:
            self._plot_view.disconnect(SELECTED, self.onBarClicked)
        self._plot_view = view
        if view is not None:
            view.connect(SELECTED, self.onBarClicked)

    def _begin(self, start):
        try:
            start()
        except ViewerError as error:
            self._say(str(error))
            return
        self._enable(False)

    def _end(self):
        self._enable(True)

    def _enable(self, is_free):
        for button in (self.ask_button, self.outline_button, self.connect_button):
            button.enabled = is_free
        self.stop_button.enabled = not is_free

    def _say(self, text):
        self.status.text = text


class SlicesightTest(ScriptedLoadableModuleTest):
    """What Slicer's own self-test runs: the calls that need no server."""

    def runTest(self):
        from SlicesightLib.self_test import run_all

        run_all()
        self.delayDisplay("slicesight: the scene's calls work")
