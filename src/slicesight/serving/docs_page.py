"""How does a person read what the API takes, in a browser without anything from elsewhere? (`/docs`)"""

from __future__ import annotations

from html import escape
from typing import Any

DOCS_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
:root { color-scheme: light dark; }
code { font: 14px/1.4 ui-monospace, monospace; }
td { vertical-align: top; padding-right: 1rem; }
"""


def docs_page(schema: dict[str, Any]) -> str:
    """Every address with what it takes and gives, from the OpenAPI description."""
    sections = [
        _section(path, method, facts) for path, methods in schema["paths"].items() for method, facts in methods.items()
    ]
    shapes = [
        f'<h3 id="{escape(name)}">{escape(name)}</h3><p>{escape(shape.get("description", ""))}</p>'
        + _table((field, _type(facts), facts.get("description", "")) for field, facts in _fields(shape))
        for name, shape in schema.get("components", {}).get("schemas", {}).items()
    ]
    about = "".join(f"<p>{escape(part)}</p>" for part in schema["info"]["description"].split("\n\n"))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>slicesight API</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>'
        f"<h1>slicesight API {escape(schema['info']['version'])}</h1>{about}"
        f'<p>For programs: <a href="openapi.json">openapi.json</a>.</p>'
        f"{''.join(sections)}<h2>Shapes</h2>{''.join(shapes)}</body></html>"
    )


def _section(path: str, method: str, facts: dict[str, Any]) -> str:
    given = [(one["name"], one["in"], one.get("description", "")) for one in facts.get("parameters", ())]
    for kind, body in facts.get("requestBody", {}).get("content", {}).items():
        given += [(name, f"{kind}: {_type(one)}", one.get("description", "")) for name, one in _fields(body["schema"])]
        given += [("body", f"{kind}: {_type(body['schema'])}", "")] if "$ref" in body["schema"] else []
    answers = [
        (
            status,
            ", ".join(_type(one.get("schema", {})) for one in answer.get("content", {}).values()),
            answer["description"],
        )
        for status, answer in facts["responses"].items()
    ]
    return (
        f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(facts.get('description', ''))}</p>"
        f"{_table(given)}<h3>Answers</h3>{_table(answers)}"
    )


def _fields(shape: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return list(shape.get("properties", {}).items())


def _type(facts: dict[str, Any]) -> str:
    if "$ref" in facts:
        return str(facts["$ref"]).rpartition("/")[2]
    if "anyOf" in facts:
        return " or ".join(_type(one) for one in facts["anyOf"])
    if facts.get("type") == "array":
        return f"list of {_type(facts.get('items', {}))}"
    return str(facts.get("type", ""))


def _table(rows: Any) -> str:
    lines = "".join(f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table>{lines}</table>" if lines else ""
