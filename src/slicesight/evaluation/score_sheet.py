"""What is a score sheet in Python? A plain dict, read from the folder of a run, that a notebook shows as tables."""

from __future__ import annotations

import pkgutil
from pathlib import Path
from typing import Any

from slicesight.errors import InputError
from slicesight.files import read_json_object

FORMAT = 1
SHEET_FILE = "sheet.json"


class ScoreSheet(dict[str, Any]):
    """What one system scores; docs/scoring.md has the keys."""

    @classmethod
    def read(cls, path: str | Path) -> ScoreSheet:
        """A sheet.json, or the folder of a run that holds one.

        Raises:
            InputError: no such file, or it is no score sheet of this form.
        """
        file = Path(path) / SHEET_FILE if Path(path).is_dir() else Path(path)
        sheet = cls(read_json_object(file))
        if sheet.get("sheet") != FORMAT:
            found = f"sheet is {sheet['sheet']!r}" if "sheet" in sheet else "no key named sheet"
            raise InputError(f"{file}: {found}, expected {FORMAT}; name a {SHEET_FILE} that slicesight evaluate wrote")
        return sheet

    def _repr_html_(self) -> str:
        """What a notebook shows; the room of reports stands above this one, so it is found by name."""
        return str(pkgutil.resolve_name("slicesight.reports.notebook:sheet_html")(self))
