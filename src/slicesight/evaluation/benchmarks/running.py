"""How does one command run a public benchmark? Its folder becomes cases, the answers a table beside the published rows.

OUT/data holds the manifest and what was left out of it, OUT/submission the files for the benchmark's own scorer, and
sheet.json has the table under `benchmark`. The manifest is the same for the same folder, so a stopped run goes on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slicesight.data.converting import MANIFEST, ConvertRequest, convert
from slicesight.data.dataset import Dataset, open_dataset
from slicesight.data.manifest import Case, Split
from slicesight.data.plugins import find_plugin
from slicesight.data.sources import ENTRY_POINTS, LAYOUTS
from slicesight.data.sources.intake import Intake, SourceRequest
from slicesight.errors import InputError
from slicesight.evaluation.benchmarks import Benchmark
from slicesight.evaluation.benchmarks.board import make_board
from slicesight.evaluation.benchmarks.submissions import write_submission
from slicesight.evaluation.predict import MODEL
from slicesight.evaluation.sheet import Scored, to_json
from slicesight.files import write_text

DATA, SUBMISSION = "data", "submission"


@dataclass(frozen=True, kw_only=True)
class OpenedBenchmark:
    """A benchmark whose folder has been read. notes: what was left out of it, to stand beside every number."""

    benchmark: Benchmark
    source: Dataset
    manifest: Path
    split: Split
    notes: tuple[str, ...]


def open_benchmark(
    benchmark: Benchmark,
    data: Path,
    *,
    out: Path,
    volumes: Path | None = None,
    split: str | None = None,
    count: int | None = None,
    skip_bad_cases: bool = False,
) -> OpenedBenchmark:
    """Read the benchmark's folder into OUT/data/manifest.jsonl and open its split.

    Args:
        volumes: where its scans lie, if not in the folder. split: another than the benchmark's own.
        count: only the first so many scans.

    Raises:
        InputError: the folder is of another layout, or (unless they are skipped) a row or scan is bad.
    """
    wanted: Any = split or benchmark.split
    request = ConvertRequest(
        format=benchmark.layout,
        source=data,
        out=out / DATA,
        volumes=volumes,
        only=wanted,
        duplicates="off",
        on_bad_case="skip" if skip_bad_cases else "stop",
    )
    try:
        conversion = convert(request)
    except InputError as error:
        raise InputError(str(error).replace("--on-bad-case skip", "--skip-bad-cases")) from None
    conversion.write()
    manifest = out / DATA / MANIFEST
    left_out = Counter(skipped.kind for skipped in conversion.skipped)
    notes = [f"left out: {number} {kind}; {DATA}/skipped.jsonl says which" for kind, number in sorted(left_out.items())]
    if count is not None:
        notes.append(f"only the first {count} scans were asked")
    return OpenedBenchmark(
        benchmark=benchmark,
        source=open_dataset(manifest, split=wanted, count=count),
        manifest=manifest,
        split=wanted,
        notes=tuple(notes),
    )


def benchmark_cases(benchmark: Benchmark, data: Path, *, volumes: Path | None = None) -> list[Case]:
    """The cases of the benchmark's split, read without writing anything; bad ones are left out."""
    intake = Intake(on_bad_case="skip")
    request = SourceRequest(source=data.resolve(), out=data.resolve() / ".none", volumes=volumes, only=benchmark.split)
    cases: list[Case] = find_plugin(benchmark.layout, LAYOUTS, ENTRY_POINTS)(request, intake)
    return [case for case in cases if case.split == benchmark.split]


def add_board(
    opened: OpenedBenchmark, folder: Path, sheet: dict[str, Any], scored: Mapping[str, Scored]
) -> tuple[dict[str, Any], Sequence[Path]]:
    """Put the table into the sheet and its file, and write the result files.

    Returns:
        The table, and the files for the benchmark's own scorer.
    """
    systems = {sheet["system"]: scored[MODEL]}
    systems |= {f"control: {name}": one for name, one in scored.items() if name != MODEL and one.rows}
    board = make_board(opened.benchmark, systems, split=opened.split, notes=opened.notes)
    written = write_submission(opened.benchmark.name, scored[MODEL].rows, folder / SUBMISSION)
    board["submission"] = [path.relative_to(folder).as_posix() for path in written]
    sheet["benchmark"] = board
    sheet["data"]["manifest"] = str(opened.manifest.resolve())
    write_text(folder / "sheet.json", text=to_json(sheet))
    return board, written
