"""How does a data set in its own layout become a manifest, with its splits, its leaks and everything left out named?

DIR/manifest.jsonl, summary.json, skipped.jsonl; where duplicates were looked for also duplicates.jsonl, and where two
splits share a scan or patient, manifest_deduplicated.jsonl. The same source gives the same bytes. The summary's
`most_common` is the share of the commonest answer among the closed questions of a split and topic: what an answer that
never looks at the scan gets right.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from rich.table import Table

from slicesight.data.duplicates import Depth, Group, find_groups, leak_summary, prints_of, split_by_group, without_leaks
from slicesight.data.manifest import PART_OPTIONS, SPLITS, Case, Split, write_manifest
from slicesight.data.plugins import find_plugin, known_names
from slicesight.data.sources import ENTRY_POINTS, LAYOUTS
from slicesight.data.sources.intake import Intake, OnBadCase, Skipped, SourceRequest
from slicesight.errors import InputError
from slicesight.files import write_text
from slicesight.io.assemble import Fill
from slicesight.io.object_store import is_remote, remote_url

Progress = Callable[[int, int], None]
MANIFEST = "manifest.jsonl"
DEDUPLICATED = "manifest_deduplicated.jsonl"
DUPLICATES = "duplicates.jsonl"
SKIPPED = "skipped.jsonl"
SUMMARY = "summary.json"
PRINTS = "prints.jsonl"
NO_SPLIT = "no split"
_TASKS = ("report", "open", "closed")


@dataclass(frozen=True, kw_only=True)
class ConvertRequest:
    """What to read and how.

    also: further (format, source) whose questions about the same scans are added, and whose other scans are.
    limit: at most so many scans of each split. split_seed: deal patients into splits; for sources without splits.
    split_shares: of train, val and test. duplicates: compare by perceptual hash ("look"), by "content", "off", or None
    for "look" where there are several splits. leave: which side of a leak gives up its scans. fill: what takes the
    place of NaN in scans whose text does not say. only: the one split that is wanted, where the layout has splits.
    is_sent: `out` goes elsewhere when it is whole, so that its manifest names scans by whole paths.
    """

    format: str
    source: Path
    out: Path
    volumes: Path | None = None
    also: tuple[tuple[str, Path], ...] = ()
    limit: int | None = None
    split_seed: int | None = None
    split_shares: tuple[float, float, float] = (80, 10, 10)
    duplicates: Literal["look", "content", "off"] | None = None
    leave: Literal["train", "test"] = "train"
    on_bad_case: OnBadCase = "stop"
    workers: int = 1
    fill: Fill | None = None
    only: Split | None = None
    is_sent: bool = False

    def __post_init__(self) -> None:
        known = known_names(LAYOUTS, ENTRY_POINTS)
        for layout, _ in self.sources:
            if layout not in known:
                raise InputError(f"format {layout!r} is unknown; use one of {', '.join(known)}")
        for place in (self.volumes, *(source for _, source in self.sources)):
            if place is not None and is_remote(place):
                if {layout for layout, source in self.sources if source == place} != {"manifest"}:
                    change = "only --format manifest reads from there, scans and all; copy the lists here for another"
                    raise InputError(f"{remote_url(place)}: lies in an object store; {change}")
            elif place is not None and not place.exists():
                raise InputError(f"{place}: no such file or folder; check the path")
        if min(self.split_shares) < 0 or self.split_shares[0] <= 0:
            raise InputError(
                f"split shares are {self.split_shares}; expected train above 0 and none below, as 80,10,10"
            )
        if self.out.resolve() in [_resolved(source) for _, source in self.sources]:
            raise InputError(f"{self.out}: the output would mix with the source; name another folder")

    @property
    def sources(self) -> tuple[tuple[str, Path], ...]:
        """(format, source) of everything to read."""
        return ((self.format, self.source), *self.also)

    @property
    def named(self) -> list[dict[str, str]]:
        """The sources as the summary names them."""
        return [{"format": layout, "name": _resolved(source).name} for layout, source in self.sources]


@dataclass(frozen=True)
class Conversion:
    """A source that has been read: cases whose `volume` is absolute, groups of cases that belong together."""

    request: ConvertRequest
    cases: list[Case]
    intake: Intake
    groups: list[Group] | None = None
    dropped: list[Skipped] = field(default_factory=list)

    def without(self, reasons: dict[str, str]) -> Conversion:
        """The conversion without some cases, each with the reason why its scan is of no use."""
        dropped = [Skipped(kind="unreadable scan", reason=reasons[id_], case_id=id_) for id_ in sorted(reasons)]
        cases = [case for case in self.cases if case.id not in reasons]
        return replace(self, cases=cases, groups=_groups_within(self.groups, cases), dropped=dropped)

    @property
    def skipped(self) -> list[Skipped]:
        return [*self.intake.skipped, *self.dropped]

    @property
    def deduplicated(self) -> list[Case] | None:
        """The cases without the leaks of one side; None where there is no leak."""
        if not any(group.is_leak for group in self.groups or ()):
            return None
        return without_leaks(self.cases, self.groups or (), leave=self.request.leave)

    def summary(self) -> dict[str, Any]:
        """What summary.json holds."""
        left = None
        if (deduplicated := self.deduplicated) is not None:
            left = {
                "manifest": DEDUPLICATED,
                "left_out_of": self.request.leave,
                "scans_left_out": len(self.cases) - len(deduplicated),
                "counts": counts_of(deduplicated),
            }
        return {
            "schema": 1,
            "sources": self.request.named,
            "counts": counts_of(self.cases),
            "skipped": dict(sorted(Counter(skipped.kind for skipped in self.skipped).items())),
            "duplicates": None if self.groups is None else leak_summary(self.groups),
            "deduplicated": left,
            "notes": self.intake.notes,
        }

    def write(self) -> dict[str, Any]:
        """Write every file, the summary first; returns the summary."""
        out = _made(self.request.out).resolve()
        summary, deduplicated = self.summary(), self.deduplicated
        # says whose the folder is: before the manifest, or a run that is killed between the two could not be run again
        write_text(out / SUMMARY, text=json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
        seen_from = None if self.request.is_sent else out
        write_manifest(_relative(self.cases, seen_from), out / MANIFEST)
        _write_lines(out / SKIPPED, [skipped.to_dict() for skipped in self.skipped])
        if self.groups is not None:
            groups = [group.to_dict() for group in self.groups if group.is_leak or group.links != {"patient"}]
            _write_lines(out / DUPLICATES, groups)
        else:
            (out / DUPLICATES).unlink(missing_ok=True)
        if deduplicated is not None:
            write_manifest(_relative(deduplicated, seen_from), out / DEDUPLICATED)
        else:
            (out / DEDUPLICATED).unlink(missing_ok=True)
        return summary


def convert(request: ConvertRequest, *, progress: Progress | None = None) -> Conversion:
    """Read a source; nothing is written but the prints of its scans, where duplicates are looked for.

    Raises:
        InputError: the source is of another layout, holds nothing usable, or (unless bad cases are skipped) a bad case.
    """
    _check_out(request)
    intake = Intake(on_bad_case=request.on_bad_case)
    found = [_read(layout, source, request, intake) for layout, source in request.sources]
    cases = _limited(_joined(found), request.limit)
    if request.fill is not None:
        cases = [case.with_fill(request.fill) for case in cases]
    splits = {case.split for case in cases}
    if request.split_seed is not None and splits != {None}:
        counts = ", ".join(f"{split} {counted['scans']}" for split, counted in counts_of(cases).items())
        raise InputError(f"{request.source}: has its own splits ({counts}); leave out --split-by-patient")
    depth = request.duplicates or ("look" if len(splits) > 1 or request.split_seed is not None else "off")
    conversion = Conversion(request, cases, intake)
    if depth != "off":
        conversion = _with_groups(conversion, depth, progress)
    if request.split_seed is not None:
        groups = conversion.groups if conversion.groups is not None else find_groups(conversion.cases, {})
        dealt = split_by_group(conversion.cases, groups, seed=request.split_seed, shares=request.split_shares)
        conversion = replace(conversion, cases=dealt, groups=_groups_within(conversion.groups, dealt))
    return conversion


def counts_of(cases: Sequence[Case]) -> dict[str, Any]:
    """{split: {"scans", "patients", "questions", "tasks": {task: {topic: {"questions", "most_common"}}}}}."""
    by_split = {name: [case for case in cases if (case.split or NO_SPLIT) == name] for name in (*SPLITS, NO_SPLIT)}
    return {split: _counts_of_split(held) for split, held in by_split.items() if held}


def _counts_of_split(cases: Sequence[Case]) -> dict[str, Any]:
    answers: dict[tuple[str, str], Counter[str]] = {}
    for case in cases:
        for conversation in case.conversations:
            answers.setdefault((conversation.task, conversation.topic), Counter())[conversation.answer.lower()] += 1
    tasks: dict[str, dict[str, Any]] = {task: {} for task in _TASKS}
    for (task, topic), answer_counts in sorted(answers.items()):
        tasks[task][topic] = {"questions": answer_counts.total()}
        if task == "closed":
            tasks[task][topic]["most_common"] = round(max(answer_counts.values()) / answer_counts.total(), 4)
    return {
        "scans": len(cases),
        "patients": len({case.patient or case.id for case in cases}),
        "questions": sum(len(case.conversations) for case in cases),
        "tasks": {task: topics for task, topics in tasks.items() if topics},
    }


def counts_table(counts: Mapping[str, Any], deduplicated: Mapping[str, Any] | None = None) -> Table:
    """Counts as a table; a split that lost scans has a second column with what is left of it."""
    columns: list[tuple[str, Mapping[str, Any]]] = []
    for split, held in counts.items():
        columns.append((split, held))
        left = (deduplicated or {}).get(split, {"scans": 0, "patients": 0, "questions": 0, "tasks": {}})
        if deduplicated is not None and left["scans"] != held["scans"]:
            columns.append((f"{split}, deduplicated", left))
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for name, _ in columns:
        table.add_column(name, justify="right")
    for counted in ("scans", "patients", "questions"):
        table.add_row(counted, *(str(held[counted]) for _, held in columns))
    rows = {(task, topic) for _, held in columns for task, topics in held["tasks"].items() for topic in topics}
    for task, topic in sorted(rows, key=lambda row: (_TASKS.index(row[0]), row[1])):
        cells = [held["tasks"].get(task, {}).get(topic) for _, held in columns]
        table.add_row(task if task == topic else f"{task}, {topic}", *(_cell(cell) for cell in cells))
    return table


def _cell(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "0"
    share = f" ({found['most_common']:.0%})" if "most_common" in found else ""
    return f"{found['questions']}{share}"


def _check_out(request: ConvertRequest) -> None:
    """Refuse a folder whose manifest came from elsewhere."""
    out, earlier = request.out, None
    if (out / SUMMARY).is_file():
        try:
            earlier = json.loads((out / SUMMARY).read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError):
            raise InputError(f"{out / SUMMARY}: damaged; remove it or name another folder") from None
    if (out / MANIFEST).exists():
        if not isinstance(earlier, dict) or "sources" not in earlier:
            raise InputError(f"{out / MANIFEST} exists and was not made by prepare; name another folder")
        if earlier["sources"] != request.named:
            made = " and ".join(f"{source['name']} as {source['format']}" for source in earlier["sources"])
            raise InputError(f"{out}: was prepared from {made}; name another folder, or remove it first")


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror}); name a folder you may write to") from error
    return folder


def _read(layout: str, source: Path, request: ConvertRequest, intake: Intake) -> list[Case]:
    volumes = request.volumes.resolve() if request.volumes else None
    place = SourceRequest(source=_resolved(source), out=request.out.resolve(), volumes=volumes, only=request.only)
    skipped_before = len(intake.skipped)
    cases: list[Case] = find_plugin(layout, LAYOUTS, ENTRY_POINTS)(place, intake)
    if not cases:
        left_out = intake.skipped[skipped_before:]
        first = f"; the first thing left out: {left_out[0]}" if left_out else ""
        raise InputError(f"{source}: no usable scan with a text found as {layout}{first}")
    return cases


def _joined(sources: list[list[Case]]) -> list[Case]:
    """One case per scan, or part of one, and split, with all sources' questions, as the scans are first named."""
    joined: dict[tuple[Any, ...], Case] = {}
    taken: set[str] = set()
    for cases in sources:
        for case in cases:
            part = (case.reading.slices, case.reading.side) if case.reading else (None, None)
            key = (case.volume, case.split, *part)
            if key in joined:
                conversations = (*joined[key].conversations, *case.conversations)
                joined[key] = joined[key].model_copy(update={"conversations": conversations})
                continue
            name = case.id if case.id not in taken else f"{case.id}@{case.split or case.source}"
            if name in taken:
                raise InputError(f"{case.volume}: its id {name!r} is another scan's; give each scan an id of its own")
            taken.add(name)
            joined[key] = case.model_copy(update={"id": name})
    return list(joined.values())


def _limited(cases: list[Case], limit: int | None) -> list[Case]:
    taken: Counter[str | None] = Counter()
    limited = []
    for case in cases:
        taken[case.split] += 1
        if limit is None or taken[case.split] <= limit:
            limited.append(case)
    return limited


def _with_groups(conversion: Conversion, depth: Depth, progress: Progress | None) -> Conversion:
    ids = {case.volume: case.id for case in conversion.cases}

    def refuse(volume: str, reason: str) -> None:
        conversion.intake.refuse("unreadable scan", f"case {ids[volume]!r}: {reason}", case_id=ids[volume])

    cache, workers = _made(conversion.request.out) / PRINTS, conversion.request.workers
    options = {
        case.volume: {name: value for name, value in case.read_options.items() if name not in PART_OPTIONS}
        for case in conversion.cases
    }
    prints = prints_of(
        list(ids), depth=depth, cache=cache, refuse=refuse, options=options, workers=workers, progress=progress
    )
    cases = [case for case in conversion.cases if case.volume in prints]
    groups = find_groups(cases, {case.id: prints[case.volume] for case in cases})
    return replace(conversion, cases=cases, groups=groups)


def _groups_within(groups: list[Group] | None, cases: list[Case]) -> list[Group] | None:
    """The groups as far as their cases are among these, which may have other splits than before."""
    if groups is None:
        return None
    by_id = {case.id: case for case in cases}
    within = [Group(tuple(by_id[case.id] for case in group.cases if case.id in by_id), group.links) for group in groups]
    return [group for group in within if len(group.cases) > 1]


def _resolved(source: Path) -> Path:
    return source if is_remote(source) else source.resolve()


def _relative(cases: list[Case], out: Path | None) -> list[Case]:
    """The cases as a manifest in `out` writes them: paths from there, so that source and output may move together.

    Addresses stay as they are; None: so do all paths.
    """

    def seen(path: str | None) -> str | None:
        return path if path is None or out is None or is_remote(path) else Path(os.path.relpath(path, out)).as_posix()

    return [case.model_copy(update={"volume": seen(case.volume), "labels": seen(case.labels)}) for case in cases]


def _write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    write_text(path, text="".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
