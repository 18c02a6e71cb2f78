"""How do RadGraph, RaTEScore, GREEN and the like score a report? RadEval computes them, in its own environment.

RadEval (PyPI radeval, Xu et al. 2025, aclanthology.org/2025.emnlp-demos.40) brings medspaCy, stanza and models of its
own, so it is no dependency: it is run as a process of the Python that has it. What it cannot give is missing with the
reason; whatever happens in it, no other number is lost.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

HOW_TO_GET = (
    "RadEval is not installed in {}; make an environment of its own (python -m venv radeval && radeval/bin/pip install "
    "radeval) and name it: --radeval-python radeval/bin/python"
)
_SCRIPT = """
import json, sys
job = json.load(open(sys.argv[1], encoding="utf-8"))
found = {"values": {}, "errors": {}, "version": None, "has_radeval": True}
try:
    from importlib.metadata import version
    from radeval import RadEval
    found["version"] = version("radeval")
except ImportError as error:
    found["has_radeval"] = (error.name or "").partition(".")[0] != "radeval"
    found["errors"] = {name: str(error) for name in job["metrics"]}
else:
    for name in job["metrics"]:
        try:
            scores = RadEval(metrics=[name], per_sample=True, show_progress=False)(refs=job["refs"], hyps=job["hyps"])
            for key, values in scores.items():
                if isinstance(values, (list, tuple)) and len(values) == len(job["refs"]):
                    found["values"][key] = [float(value) for value in values]
                else:
                    found["errors"][key] = "it gives no value for each report"
        except BaseException as error:
            found["errors"][name] = (type(error).__name__ + ": " + str(error)).splitlines()[0][:200]
with open(sys.argv[2], "w", encoding="utf-8") as file:
    json.dump(found, file)
"""


@dataclass(frozen=True, kw_only=True)
class RadEvalScores:
    """values: key of RadEval -> one value per report. missing: metric -> why, and how to get it."""

    values: dict[str, list[float]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    version: str | None = None


def radeval_scores(
    pairs: Sequence[tuple[str, str]], metrics: Sequence[str], *, python: Path | None = None
) -> RadEvalScores:
    """RadEval's metrics of (said, true) reports; python: the one of its environment, None for this one."""
    interpreter = str(python or sys.executable)
    job = {"metrics": list(metrics), "hyps": [said for said, _ in pairs], "refs": [true for _, true in pairs]}
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder) / "job.json", Path(folder) / "scores.json"
        asked.write_text(json.dumps(job), encoding="utf-8")
        command = [interpreter, "-c", _SCRIPT, str(asked), str(answered)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        except OSError as error:
            reason = f"{interpreter} cannot be run ({error.strerror}); name the Python of RadEval's environment"
            return RadEvalScores(missing=dict.fromkeys(metrics, reason))
        if not answered.is_file():
            last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:200]
            return RadEvalScores(missing=dict.fromkeys(metrics, f"RadEval's process ended: {last}"))
        found = json.loads(answered.read_text(encoding="utf-8"))
    if not found["has_radeval"]:
        return RadEvalScores(missing=dict.fromkeys(metrics, HOW_TO_GET.format(interpreter)))
    values = {name: given for name, given in found["values"].items() if all(map(math.isfinite, given))}
    missing = {name: _with_way_out(error, interpreter) for name, error in found["errors"].items()}
    missing |= {name: "some of its values are not numbers" for name in found["values"] if name not in values}
    return RadEvalScores(values=values, missing=missing, version=found["version"])


def _with_way_out(error: str, interpreter: str) -> str:
    """What RadEval says of a metric that it cannot give, and how to have it; weights are fetched at their first use."""
    if error.startswith("ModuleNotFoundError"):
        return f"{error}; pip install it into the environment of {interpreter}, or another version of radeval"
    if "huggingface.co" in error or "offline" in error.lower():
        return f"{error}; run it once where there is a connection, its weights are fetched then and kept"
    return error
