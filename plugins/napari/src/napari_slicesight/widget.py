"""How does somebody in napari ask the scan on screen? The panel: the model, the scan, the question, the answers."""

from __future__ import annotations

import os
from typing import Any

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFileDialog,
    QFormLayout,
    QGroupBox,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QTextBrowser,
    QVBoxLayout,
    QWidget,
)

from .answers import ScanAnswer, answer_html
from .background import Background
from .client import Backend, Server, Session
from .layers import USUAL_AXES, add_masks, jump_to, knows_its_place, layer_scan
from .masks import OWN_PYTHON, Structure, outline
from .own_model import OwnModel, is_installed, model_names
from .scan_file import ScreenScan, ViewerError
from .score_plot import ScorePlot

RESEARCH_NOTICE = "For research use only. Not a medical device: no answer here may guide a diagnosis or a treatment."
TOKEN_VARIABLE = "SLICESIGHT_TOKEN"  # noqa: S105  # a variable's name
HERE, ON_SERVER = 0, 1
MODELS_OWN = "the model's own"


class AskWidget(QWidget):  # type: ignore[misc]  # Qt has no types here
    """napari's panel "Ask the scan".

    Args:
        napari_viewer: the viewer, which napari passes by this name.
    """

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self.viewer = napari_viewer
        self.background = Background(QTimer.singleShot)
        self.session: Session | None = None
        self._backend_key: tuple[Any, ...] | None = None
        self._asked: tuple[ScanAnswer, ScreenScan, Any] | None = None
        self._shown: list[str] = []
        layout = QVBoxLayout(self)
        for part in (self._model_part(), self._scan_part(), *self._question_part(), self._mask_part()):
            layout.addWidget(part)
        self.plot.slice_clicked.connect(self.go_to)
        for event in (self.viewer.layers.events.inserted, self.viewer.layers.events.removed):
            event.connect(self._list_layers)
        self._list_layers()
        self._show_place()

    # --- the panel's parts ---

    def _model_part(self) -> QWidget:
        part = QGroupBox("Model")
        form = QFormLayout(part)
        self.where = QComboBox()
        self.where.addItems(["in this process", "on a server"])
        self.model = QComboBox()
        self.model.setEditable(True)
        self.model.addItems(model_names())
        self.model.setToolTip("A model that came with slicesight or was pulled, or a model's folder")
        self.address = QLineEdit("http://127.0.0.1:8000")
        self.address.setToolTip("The address that slicesight serve printed")
        self.token = QLineEdit(os.environ.get(TOKEN_VARIABLE, ""))
        self.token.setEchoMode(QLineEdit.EchoMode.Password)
        self.token.setPlaceholderText("of a server that wants one")
        self.allow_plain_http = QCheckBox("send scans unencrypted to another machine")
        form.addRow("Runs", self.where)
        form.addRow("Name", self.model)
        form.addRow("Address", self.address)
        form.addRow("Token", self.token)
        form.addRow("", self.allow_plain_http)
        self._model_form = form
        self.where.currentIndexChanged.connect(self._show_place)
        self.where.setCurrentIndex(HERE if is_installed() else ON_SERVER)
        return part

    def _scan_part(self) -> QWidget:
        part = QGroupBox("Scan")
        form = QFormLayout(part)
        self.layer = QComboBox()
        self.layer.currentIndexChanged.connect(self._show_axes)
        self.axes = QComboBox()
        self.axes.setEditable(True)
        self.axes.addItems(["", *USUAL_AXES])
        self.axes.setToolTip("Where axes 0, 1 and 2 of the array grow toward: S or I, P or A, L or R")
        self.unit = QComboBox()
        self.unit.addItems(["found out", "HU", "arbitrary"])
        self.unit.setToolTip("What the values are")
        form.addRow("Layer", self.layer)
        form.addRow("Axes", self.axes)
        form.addRow("Values", self.unit)
        self._scan_form = form
        return part

    def _question_part(self) -> list[QWidget]:
        self.question = QLineEdit()
        self.question.setPlaceholderText("Is there a lesion in the liver? Empty: describe the findings")
        self.question.returnPressed.connect(self.ask)
        self.answer_anyway = QCheckBox("answer also where the model is not sure")
        self.ask_button, self.stop_button = QPushButton("Ask"), QPushButton("Stop")
        self.ask_button.clicked.connect(self.ask)
        self.stop_button.clicked.connect(self.background.stop)
        self.stop_button.setEnabled(False)
        buttons = QWidget()
        row = QHBoxLayout(buttons)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.ask_button, 1)
        row.addWidget(self.stop_button)
        self.status, notice = QLabel(), QLabel(f"<small>{RESEARCH_NOTICE}</small>")
        for line in (self.status, notice):
            line.setWordWrap(True)
        self.plot = ScorePlot()
        self.plot.show_answer(None)
        self.answers = QTextBrowser()
        self.answers.setMinimumHeight(160)
        return [self.question, self.answer_anyway, buttons, self.status, self.plot, self.answers, notice]

    def _mask_part(self) -> QWidget:
        part = QGroupBox("Outlines")
        form = QFormLayout(part)
        self.mask_model = QLineEdit()
        self.mask_model.setPlaceholderText("a folder of slicesight insight segment")
        browse = QPushButton("…")
        browse.setMaximumWidth(30)
        browse.clicked.connect(self._browse)
        row = QHBoxLayout()
        row.addWidget(self.mask_model)
        row.addWidget(browse)
        self.program = QLineEdit(OWN_PYTHON if is_installed() else "slicesight")
        self.program.setToolTip(f'The command line on this machine; "{OWN_PYTHON}" is that beside napari')
        self.outline_button = QPushButton("Outline structures")
        self.outline_button.clicked.connect(self.outline)
        form.addRow("Model", row)
        form.addRow("Program", self.program)
        form.addRow(self.outline_button)
        return part

    # --- what happens ---

    def ask(self) -> None:
        """Ask the question about the chosen layer, in the background."""
        try:
            layer = self._layer()
            unit = self.unit.currentText() if self.unit.currentIndex() else ""
            scan = layer_scan(layer, axes=self._letters(layer), unit=unit)
            session = self._session()
            question, anyway = self.question.text(), self.answer_anyway.isChecked()
            progress = self.background.reporter(lambda done, total: self._say(f"sending the scan: {done / total:.0%}"))
            text = self.background.reporter(self._say)
            self.background.start(
                lambda: session.ask(
                    scan,
                    question,
                    answer_anyway=anyway,
                    on_progress=progress,
                    on_text=text,
                    is_stopped=self.background.is_stopped,
                ),
                on_done=lambda answer: self.show_answer(answer, scan, layer),
                on_refused=self._say,
                on_end=self._end,
            )
        except ViewerError as error:
            self._say(str(error))
            return
        self._begin("asking …")

    def outline(self) -> None:
        """Have structures of the chosen layer outlined, in the background."""
        try:
            layer = self._layer()
            scan = layer_scan(layer, axes=self._letters(layer))
            program, model = self.program.text(), self.mask_model.text()
            line = self.background.reporter(self._say)
            self.background.start(
                lambda: outline(
                    scan, program=program, model=model, on_line=line, is_stopped=self.background.is_stopped
                ),
                on_done=lambda found: self.show_masks(layer, *found),
                on_refused=self._say,
                on_end=self._end,
            )
        except ViewerError as error:
            self._say(str(error))
            return
        self._begin("outlining …")

    def show_answer(self, answer: ScanAnswer, scan: ScreenScan, layer: Any) -> None:
        """Newest on top; its scores as bars."""
        self._asked = answer, scan, layer
        self._shown.insert(0, answer_html(answer))
        self.answers.setHtml("<hr>".join(self._shown))
        self.plot.show_answer(answer)
        self._say("Click a bar to go to its slice." if answer.slices else "")

    def go_to(self, number: int) -> None:
        """Show a scored slice of the last answer."""
        if self._asked is None:
            return
        answer, scan, layer = self._asked
        found = answer.slices[number]
        if layer not in self.viewer.layers:
            self._say(f"{scan.name} is closed; open it again and ask.")
        elif jump_to(self.viewer, layer, scan, answer, found):
            self.plot.choose(number)
            self._say(f"{found.place}, score {found.score:.3f}")
        else:
            self._say("This scan has no place in the patient, so there is nowhere to go.")

    def show_masks(self, layer: Any, labels_KJI: Any, structures: list[Structure]) -> None:
        """The labels over their image, and how large each structure is."""
        add_masks(self.viewer, layer, labels_KJI, structures)
        sizes = [f"{one.name} {one.volume_ml:.1f} ml" if one.volume_ml is not None else one.name for one in structures]
        self._say(f"{', '.join(sizes) or 'nothing was found'}. Look at the outlines before you use them.")

    def closeEvent(self, event: Any) -> None:  # Qt's name
        """Leave no scan behind."""
        self.background.stop()
        self._leave()
        super().closeEvent(event)

    # --- helpers ---

    def _session(self) -> Session:
        """The one of this model or server; another choice begins another."""
        if self.where.currentIndex() == HERE:
            key: tuple[Any, ...] = (HERE, self.model.currentText().strip())
            if not key[1]:
                raise ViewerError("no model is named; choose one, or a model's folder.")
        else:
            key = (ON_SERVER, self.address.text(), self.token.text(), self.allow_plain_http.isChecked())
        if self.session is None or key != self._backend_key:
            backend: Backend = (
                OwnModel(key[1]) if key[0] == HERE else Server(key[1], token=key[2], allow_plain_http=key[3])
            )
            self._leave()
            self.session, self._backend_key = Session(backend), key
        return self.session

    def _leave(self) -> None:
        session, self.session = self.session, None
        if session is not None:
            try:
                session.close()
            except ViewerError as error:
                self._say(str(error))

    def _layer(self) -> Any:
        name = self.layer.currentText()
        return self.viewer.layers[name] if name and name in self.viewer.layers else None

    def _letters(self, layer: Any) -> str:
        return "" if knows_its_place(layer) else str(self.axes.currentText())

    def _list_layers(self, _event: Any = None) -> None:
        chosen = self.layer.currentText()
        self.layer.clear()
        self.layer.addItems([layer.name for layer in self.viewer.layers if type(layer).__name__ == "Image"])
        self.layer.setCurrentIndex(max(0, self.layer.findText(chosen)))

    def _show_axes(self, _index: int = 0) -> None:
        layer = self._layer()
        _show_row(self._scan_form, self.axes, layer is not None and not knows_its_place(layer))

    def _show_place(self, _index: int = 0) -> None:
        is_here = self.where.currentIndex() == HERE
        for widget, is_shown in (
            (self.model, is_here), (self.address, not is_here), (self.token, not is_here),
            (self.allow_plain_http, not is_here),
        ):  # fmt: skip
            _show_row(self._model_form, widget, is_shown)

    def _browse(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "A folder of slicesight insight segment")
        if folder:
            self.mask_model.setText(folder)

    def _begin(self, text: str) -> None:
        self._say(text)
        self._enable(False)

    def _end(self) -> None:
        self._enable(True)

    def _enable(self, is_free: bool) -> None:
        for button in (self.ask_button, self.outline_button):
            button.setEnabled(is_free)
        self.stop_button.setEnabled(not is_free)

    def _say(self, text: str) -> None:
        self.status.setText(text)


def _show_row(form: QFormLayout, widget: QWidget, is_shown: bool) -> None:
    """`QFormLayout.setRowVisible`, which Qt 5 has not."""
    for part in (widget, form.labelForField(widget)):
        if part is not None:
            part.setVisible(is_shown)
