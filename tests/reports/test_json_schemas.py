"""The published schemas are those of the code and refuse what is wrong; each verb's own tests hold it to its own."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import jsonschema
import pytest

import slicesight.cli
from slicesight.reports.json_schemas import DOCUMENTS, FOLDER, file_of, text_of


@pytest.mark.parametrize("verb", DOCUMENTS)
def test_the_published_file_is_a_schema_made_of_the_code(verb):
    assert file_of(verb).read_text(encoding="utf-8") == text_of(verb)
    schema = json.loads(text_of(verb))
    jsonschema.Draft202012Validator.check_schema(schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"schema": 1}, schema)


def test_no_file_is_left_over():
    assert {path.name for path in FOLDER.iterdir()} == {file_of(verb).name for verb in DOCUMENTS}


def test_every_verb_with_an_option_json_has_a_schema():
    folder, takes = Path(slicesight.cli.__file__).parent, set()
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            options = [one.arg for one in node.args.args] if isinstance(node, ast.FunctionDef) else []
            if isinstance(node, ast.ClassDef):
                options = [one.target.id for one in node.body if isinstance(one, ast.AnnAssign)]
            if "json" in options:
                takes.add(node.name.removesuffix("Options").lower())
    assert takes == {verb.split("-")[-1] for verb in DOCUMENTS}


@pytest.mark.parametrize("verb", DOCUMENTS)
def test_every_verb_has_a_test_that_holds_its_output_against_the_schema(verb):
    tests = Path(__file__).parents[1]
    assert any(f'documented("{verb}"' in path.read_text(encoding="utf-8") for path in tests.rglob("test_*.py"))
