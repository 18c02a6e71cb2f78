"""As which files can a report of an asking be written? One line each; another package adds one by an entry point.

A writer is called as writer(report, path), with a `reports.ask.AnswerReport`. The DICOM report (`dicom_sr`) is not
among them: it also needs the scan's own images.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from slicesight.data.plugins import find_plugin

if TYPE_CHECKING:
    from slicesight.reports.ask import AnswerReport

FORMATS = {
    "json": "slicesight.reports.ask:AnswerReport.write_json",
    "html": "slicesight.reports.ask:AnswerReport.write_html",
    "png": "slicesight.reports.ask:AnswerReport.write_png",
}
ENTRY_POINTS = "slicesight.report_formats"


def report_writer(name: str) -> Callable[[AnswerReport, Path], None]:
    """The writer of a format.

    Raises:
        InputError: nobody has such a format.
    """
    found: Callable[[AnswerReport, Path], None] = find_plugin(name, FORMATS, ENTRY_POINTS)
    return found
