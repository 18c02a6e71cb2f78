"""What does `slicesight models` know about every model: where it is, its size, licence, training data and scores?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer

from slicesight.cli.terminal import size
from slicesight.errors import InputError
from slicesight.files import read_json_object
from slicesight.models.known import KNOWN_MODELS
from slicesight.models.shipped import find_folder, pulled_models, shipped_models

GIB = 2**30
WEIGHTS = ("*.safetensors", "*.bin")


def list_models() -> list[dict[str, Any]]:
    """Shipped, pulled and known models: name, state, size, licence, what it was trained on, scores, place."""
    pulled = pulled_models()
    rows = [_row_of_folder(name, "shipped") for name in shipped_models()]
    rows += [_row_of_folder(name, "pulled") for name in pulled]
    for known in KNOWN_MODELS.values():
        if known.name not in pulled:
            scores = {**known.scores, "source": known.scores_from} if known.scores else None
            rows.append(
                {
                    "name": known.name,
                    "state": "known",
                    "gib": known.gib,
                    "licence": known.licence,
                    "trained_on": known.trained_on,
                    "summary": known.summary,
                    "scores": scores,
                    "hub": known.hub,
                    "revision": None,
                    "folder": None,
                }
            )
    return rows


def _row_of_folder(name: str, state: str) -> dict[str, Any]:
    folder = find_folder(name)
    card_path = folder / "card.json"
    try:
        card = read_json_object(card_path) if card_path.is_file() else {}
    except InputError as error:
        card = {"summary": f"its card cannot be read: {error}"}
    came = card.get("pulled") or {}
    return {
        "name": name,
        "state": state,
        "gib": round(_weight_bytes(folder) / GIB, 4),
        "licence": card.get("licence") or ("Apache-2.0" if state == "shipped" else None),
        "trained_on": card.get("trained_on", "unknown"),
        "summary": card.get("summary", ""),
        "scores": _scores_of(card),
        "hub": came.get("hub"),
        "revision": came.get("revision"),
        "folder": str(folder),
    }


def _weight_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for pattern in WEIGHTS for path in folder.glob(pattern))


def _scores_of(card: dict[str, Any]) -> dict[str, Any] | None:
    """What the authors published, or what this package's own scoring wrote into the card, with its blind control."""
    for name in ("published_scores", "measured_scores"):
        if isinstance(found := card.get(name), dict):
            return found
    scores = card.get("scores")
    if isinstance(scores, dict) and isinstance(rows := scores.get("structures"), list):
        dice = {f"Dice {row['structure']}": row["dice"] for row in rows}
        return {**dice, "source": f"measured with this package on {scores.get('patients', 'unknown')} patients"}
    if not isinstance(scores, dict) or not isinstance(own := scores.get("model"), dict):
        return None
    found = {}
    for kind in ("closed", "open"):
        if kind in own:
            found[f"{kind} accuracy"] = round(100 * own[kind], 2)
            if interval := own.get(f"{kind}_interval"):
                found[f"{kind} accuracy, 95 % interval"] = [round(100 * bound, 2) for bound in interval]
            if isinstance(blind := scores.get("blind"), dict) and kind in blind:
                found[f"{kind} accuracy without the scan"] = round(100 * blind[kind], 2)
    if found:
        found["source"] = f"measured with this package on {own.get('num_phantoms', 'unknown')} synthetic scans"
    return found or None


def print_models(rows: list[dict[str, Any]], *, as_json: bool) -> None:
    """On stdout: a block per model, or JSON."""
    if as_json:
        typer.echo(json.dumps({"schema": 1, "models": rows}, indent=1))
        return
    for number, row in enumerate(rows):
        if number:
            typer.echo("")
        for line in describe_row(row):
            typer.echo(line)


def describe_row(row: dict[str, Any]) -> list[str]:
    """A model in a few lines."""
    state = {"shipped": "came with the package", "pulled": f"in {row['folder']}"}.get(
        row["state"], f"not here; slicesight pull {row['name']}"
    )
    about = "about " if row["state"] == "known" else ""
    lines = [f"{row['name']}  ({about}{size(round(row['gib'] * GIB))}; {state})"]
    if row["summary"]:
        lines.append(f"  {row['summary']}")
    lines.append(f"  trained on  {row['trained_on']}")
    lines.append(f"  licence     {row['licence'] or 'none named'}")
    if row["hub"]:
        lines.append(f"  from        {row['hub']}" + (f" at {row['revision']}" if row["revision"] else ""))
    scores = row["scores"]
    if scores is None:
        lines.append("  scores      none known")
    else:
        said = [f"{name} {_number(value)}" for name, value in scores.items() if name != "source"]
        lines.append(f"  scores      {'; '.join(said)} ({scores.get('source', 'source unknown')})")
    return lines


def _number(value: Any) -> str:
    if isinstance(value, list):
        return " to ".join(f"{bound:g}" for bound in value)
    return f"{value:g}" if isinstance(value, int | float) else str(value)
