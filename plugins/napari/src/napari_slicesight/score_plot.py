"""Which slices weigh most? A bar for each, drawn by Qt alone; a click on one goes there."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QRectF, QSize, Qt, Signal
from qtpy.QtGui import QColor, QMouseEvent, QPainter, QPaintEvent, QPen
from qtpy.QtWidgets import QSizePolicy, QToolTip, QWidget

from .answers import ScanAnswer

BAR, HEAVY, CHOSEN, EVEN = QColor("#6f87a3"), QColor("#3d9be9"), QColor("#f2a93b"), QColor("#c96f4a")
_LEFT, _RIGHT, _TOP, _BOTTOM = 38, 8, 8, 22
_LEAST_GAP = 10
"""Pixels between two labels."""
_GAP_FROM = 4.0
"""Bars wider than this have a gap between them."""


class ScorePlot(QWidget):  # type: ignore[misc]  # Qt has no types here
    """The scores of one answer, in the order of its slices; planes of several stand side by side."""

    slice_clicked = Signal(int)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.answer: ScanAnswer | None = None
        self.chosen: int | None = None
        self.setMouseTracking(True)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setCursor(Qt.CursorShape.PointingHandCursor)

    def sizeHint(self) -> QSize:  # Qt's name
        return QSize(320, 150)

    def show_answer(self, answer: ScanAnswer | None) -> None:
        """Draw this answer's scores; None draws nothing."""
        self.answer, self.chosen = answer, None
        self.setVisible(answer is not None and bool(answer.slices))
        self.update()

    def choose(self, number: int) -> None:
        """Mark the slice on screen."""
        self.chosen = number
        self.update()

    def bar(self, number: int) -> QRectF:
        """Where a bar stands, in the widget's pixels."""
        area, top = self._area(), self._top_score()
        assert self.answer is not None
        width = area.width() / len(self.answer.slices)
        gap = 1.0 if width >= _GAP_FROM else 0.0
        height = max(1.0, area.height() * self.answer.slices[number].score / top)
        return QRectF(area.left() + number * width, area.bottom() - height, max(1.0, width - gap), height)

    def slice_at(self, x: float) -> int | None:
        """Whose column a place is in; above a low bar too, so that it need not be hit."""
        if self.answer is None or not self.answer.slices:
            return None
        area = self._area()
        number = int((x - area.left()) / area.width() * len(self.answer.slices))
        return number if area.left() <= x < area.right() else None

    def mousePressEvent(self, event: QMouseEvent) -> None:
        number = self.slice_at(event.position().x())
        if number is not None and event.button() == Qt.MouseButton.LeftButton:
            self.slice_clicked.emit(number)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        number = self.slice_at(event.position().x())
        if number is not None and self.answer is not None:
            found = self.answer.slices[number]
            QToolTip.showText(event.globalPosition().toPoint(), f"{found.place}\nscore {found.score:.3f}", self)

    def paintEvent(self, _event: QPaintEvent) -> None:
        if self.answer is None or not self.answer.slices:
            return
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        text = self.palette().windowText().color()
        area, top, count = self._area(), self._top_score(), len(self.answer.slices)
        faint = QColor(text)
        faint.setAlpha(110)
        painter.setPen(QPen(faint, 1))
        painter.drawLine(area.bottomLeft(), area.bottomRight())
        for number in range(count):
            colour = HEAVY if self.answer.stands_out(number) else BAR
            painter.fillRect(self.bar(number), CHOSEN if number == self.chosen else colour)
        even = area.bottom() - area.height() / count / top
        painter.setPen(QPen(EVEN, 1, Qt.PenStyle.DashLine))
        painter.drawLine(round(area.left()), round(even), round(area.right()), round(even))
        painter.setPen(text)
        small = painter.font()
        small.setPointSizeF(max(7.0, small.pointSizeF() * 0.85))
        painter.setFont(small)
        right = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        for score in (0.0, top):
            y = area.bottom() - area.height() * score / top
            painter.drawText(QRectF(0, y - 8, _LEFT - 4, 16), right, f"{score:.2f}")
        self._draw_places(painter, area, count)

    def _draw_places(self, painter: Any, area: QRectF, count: int) -> None:
        """Under some bars the place in mm, else the slice's number; as many as do not touch."""
        assert self.answer is not None
        ticks = [one.tick for one in self.answer.slices]
        axes = {tick.partition(" ")[0] for tick in ticks if " " in tick}
        if len(axes) == 1:  # one plane: its axis is named once
            ticks = [tick.partition(" ")[2] for tick in ticks]
            right = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignTop
            painter.drawText(QRectF(0, area.bottom() + 3, _LEFT - 4, 16), right, f"{axes.pop()} mm")
        widest = max(painter.fontMetrics().horizontalAdvance(tick) for tick in ticks) + _LEAST_GAP
        step = max(1, -(-count * widest // round(area.width())))
        centre = Qt.AlignmentFlag.AlignHCenter | Qt.AlignmentFlag.AlignTop
        for number in range(step // 2, count, step):
            middle = area.left() + (number + 0.5) * area.width() / count
            painter.drawText(QRectF(middle - widest / 2, area.bottom() + 3, widest, 16), centre, ticks[number])

    def _area(self) -> QRectF:
        return QRectF(_LEFT, _TOP, max(1, self.width() - _LEFT - _RIGHT), max(1, self.height() - _TOP - _BOTTOM))

    def _top_score(self) -> float:
        assert self.answer is not None
        return max(*self.answer.scores, 1.5 / len(self.answer.slices), 1e-9)
