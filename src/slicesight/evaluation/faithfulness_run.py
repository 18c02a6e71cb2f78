"""One command, one figure: how faithful are the slice scores of one model, or of several ways of scoring side by side?

DIR/faithfulness.json holds every number unrounded, DIR/faithfulness.png shows them, a row per model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from slicesight.data.dataset import open_dataset
from slicesight.errors import InputError
from slicesight.evaluation.faithfulness import measure
from slicesight.evaluation.scoring import to_json
from slicesight.files import write_text
from slicesight.inference.predictor import Predictor
from slicesight.reports.case_figure import save_figure
from slicesight.reports.faithfulness_figure import draw_faithfulness
from slicesight.reports.terminal import progress_bar


@dataclass(frozen=True, kw_only=True)
class FaithfulnessRequest:
    """The arguments of `slicesight faithfulness`."""

    models: Sequence[str]
    data: str
    out: Path
    split: str | None = None
    count: int | None = None

    def __post_init__(self) -> None:
        if self.out.is_file():
            raise InputError(f"{self.out} is a file; name a folder with --out.")


def run_faithfulness(request: FaithfulnessRequest, *, load: Callable[[str], Predictor]) -> None:
    """Measure every model on the same scans, writing what is there after each; print at the end."""
    stderr = Console(stderr=True)
    source = open_dataset(request.data, split=request.split, prefer="test", count=request.count)
    try:
        request.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{request.out}: cannot be made ({error.strerror}); name another folder.") from error
    found = []
    for name in request.models:
        with stderr.status(f"loading {name}"):
            reader = load(name)
        with progress_bar(stderr, f"measuring {reader.card.name}") as progress:
            found.append(measure(reader, source, progress=progress))
        write_text(request.out / "faithfulness.json", text=to_json({"data": request.data, "models": found}))
        save_figure(draw_faithfulness(found), request.out / "faithfulness.png")
    console = Console(highlight=False)
    for one in found:
        for table in tables_of(one):
            console.print(table)
        console.print(verdict_line(one), style="bold", soft_wrap=True)
    stderr.print(
        f"wrote {request.out}/faithfulness.json and faithfulness.png; look at the picture",
        highlight=False,
        soft_wrap=True,
    )


def tables_of(found: Mapping[str, Any]) -> list[Table]:
    """Gains and claims of one model."""
    gains = Table(
        title=f"{found['model']}: area gained by the heaviest slices", title_justify="left", box=box.SIMPLE_HEAD
    )
    for heading in ("curve", "against", "gain (95 % CI)", "p, Holm", "d"):
        gains.add_column(heading)
    for entry in found["gains"]:
        low, high = entry["ci95"]
        size = entry["effect_size_d"]
        gains.add_row(
            f"{entry['curve']}, {entry['branch']}",
            entry["against"],
            f"{entry['gain']:+.3f} ({low:+.3f}…{high:+.3f})",
            f"{entry['p_holm']:.4f}",
            "–" if size is None else f"{size:.2f}",
        )
    claims = Table(title="the paper's claims", title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("", "claim", "value", "difference (95 % CI)"):
        claims.add_column(heading)
    for name, claim in found["claims"].items():
        if name == "effective_slices" or claim["value"] is None:
            continue
        low, high = claim["difference_ci95"]
        difference = f"{claim['difference']:+.3f} ({low:+.3f}…{high:+.3f})"
        claims.add_row("✓" if claim["holds"] else "✗", claim["says"], f"{claim['value']:.3f}", difference)
    return [gains, claims]


def verdict_line(found: Mapping[str, Any]) -> str:
    """What to say in one sentence."""
    verdict, evidence = found["verdict"], found["evidence"]
    parts = [
        "its answers rest on the slices it weighs most"
        if verdict["answers_rest_on_the_heaviest_slices"]
        else "its answers do NOT rest on the slices it weighs most"
    ]
    if evidence is not None:
        low, high = evidence["excess_ci95"]
        reaches = "reaches" if verdict["excess_mass_reaches_the_aim"] else "misses"
        parts.append(
            f"excess mass on the truth {evidence['excess']:.2f} ({low:.2f}…{high:.2f}) {reaches} {verdict['aim']}"
        )
    return f"{found['model']}: " + "; ".join(parts)
