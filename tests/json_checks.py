"""How does a test hold a printed document against its verb's published JSON Schema?"""

from __future__ import annotations

import json
from typing import Any

import jsonschema

from slicesight.reports.json_schemas import file_of


def documented(verb: str, text: str) -> Any:
    """The document, which is ASCII and follows the schema of the verb."""
    assert text.isascii()
    document = json.loads(text)
    jsonschema.validate(document, json.loads(file_of(verb).read_text(encoding="utf-8")))
    return document
