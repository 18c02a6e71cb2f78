"""How do a manifest's scans become prepared volumes, each read only when it has to be?

Cases fall into shards where the digest of an id says so (content-defined boundaries): the layout depends on the
manifest alone, and a case added or changed touches its own shard only. A row that an earlier run made is found by its
key and copied; a shard whose rows are all there already is left alone. Shards are complete from the moment they have
their name, so a killed run goes on where it stopped; the index comes last and makes the whole visible at once.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

from slicesight.data import rows
from slicesight.data.fingerprints import stat_fingerprint
from slicesight.data.manifest import Case, iter_manifest, write_manifest
from slicesight.data.rows import JournalEntry, ScanJob, ScanOutcome, StoredType
from slicesight.data.shards import FOLDER, PATTERN, RowPlace, Shard, VolumeShardWriter, read_keys
from slicesight.data.store import FailedCase, PreparedIndex, read_index
from slicesight.data.workers import outcomes_of
from slicesight.errors import InputError, check_type
from slicesight.files import only_run_in, plain_disk_errors
from slicesight.io.mirror import folder_for
from slicesight.io.object_store import is_remote, joined, remote_url
from slicesight.volumes.grid import GridSpec

Progress = Callable[[int, int], None]
CASES_PER_SHARD = 16
MOST_CASES_PER_SHARD = 32


@dataclass(frozen=True, kw_only=True)
class PreparationReport:
    """What a run did.

    num_ready: cases with a prepared volume; num_prepared: those of them made in this run, the others were there.
    remade: shards found truncated, whose cases were prepared again; num_bytes: of all shards together.
    """

    folder: str | Path
    num_cases: int
    num_ready: int
    num_prepared: int
    num_shards: int
    num_bytes: int
    digest: str
    failed: tuple[FailedCase, ...] = ()
    remade: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [
            f"{self.num_ready} of {self.num_cases} volumes ready in {self.folder}",
            f"{self.num_prepared} prepared now, {self.num_ready - self.num_prepared} there already",
            f"{self.num_shards} shards, {self.num_bytes / 1e6:.1f} MB",
        ]
        if self.remade:
            parts.append(f"{len(self.remade)} truncated shards made again")
        if self.failed:
            parts.append(f"{len(self.failed)} failed")
        return " · ".join(parts)


def prepare_volumes(
    manifest: str | Path,
    out: str | Path,
    *,
    spec: GridSpec,
    dtype: StoredType = "uint8",
    workers: int = 1,
    ray_address: str | None = None,
    on_bad_case: Literal["stop", "skip"] = "stop",
    progress: Progress | None = None,
) -> PreparationReport:
    """Bring every scan of a manifest to the grid and keep it in OUT/volumes/*.parquet.

    On the command line: --workers N, --ray ADDRESS, --dtype uint8|float16, --window, --plane, --size N,H,W (the three
    make `spec`), --on-bad-case stop|skip. Run again, it makes what is new, changed or missing and removes what the
    manifest no longer names; with nothing changed it writes nothing. A script that uses several workers needs
    `if __name__ == "__main__":`, since they are spawned.

    Args:
        manifest: JSONL, here or in an object store; its volumes are relative to its folder, or addresses.
        out: where manifest.jsonl (copied with adjusted paths, if it lies elsewhere) and volumes/ go; a folder here or
            an address in an object store.
        dtype: "uint8" keeps 1/255 of the window, "float16" 1/2048 or finer at twice the size.
        workers: processes on this machine, or CPUs of a cluster that `ray_address="local"` starts.
        ray_address: prepare on this Ray cluster instead ("local", "auto", "ray://host:port", "host:port").
        on_bad_case: "stop" at the first scan that cannot be used, or "skip" it and list it in the report.
        progress: called with how many scans were prepared, and how many have to be.

    Raises:
        InputError: in one line; what was prepared before it stays and is found by the next run.
    """
    check_type(spec, GridSpec, name="spec", expected="a GridSpec, such as GridSpec(num_slices=32)")
    if dtype not in rows.STORED_TYPES:
        raise InputError(f"dtype is {dtype!r}; expected {' or '.join(rows.STORED_TYPES)}")
    check_type(workers, int, name="workers", expected="1 or more")
    if workers < 1:
        raise InputError(f"workers is {workers}; expected 1 or more")
    if on_bad_case not in ("stop", "skip"):
        raise InputError(f"on_bad_case is {on_bad_case!r}; expected 'stop' or 'skip'")
    with folder_for(out) as folder:
        report = _prepared(
            remote_url(manifest) if is_remote(manifest) else Path(manifest),
            folder,
            run=partial(_Run, spec=spec, dtype=dtype, may_skip=on_bad_case == "skip"),
            is_sent=is_remote(out),
            execute=partial(_Run.execute, workers=workers, ray_address=ray_address, progress=progress),
        )
    return replace(report, folder=out) if is_remote(out) else report


def _prepared(
    manifest: str | Path,
    out: Path,
    *,
    run: Callable[..., _Run],
    execute: Callable[[_Run], None],
    is_sent: bool,
) -> PreparationReport:
    """Plan, do and commit; is_sent: the folder goes elsewhere, so that its manifest names scans by whole paths."""
    theirs = out / "manifest.jsonl"
    is_theirs = isinstance(manifest, Path) and manifest.resolve() == theirs.resolve()
    if not is_theirs and theirs.exists() and not _was_begun(out / FOLDER):
        raise InputError(f"{theirs} exists already and is another manifest; name another folder")
    with only_run_in(out / FOLDER) as folder, plain_disk_errors(folder):
        made = run(folder=folder)
        made.plan(iter_manifest(manifest), _folder_of(manifest))
        execute(made)
        if not is_theirs:
            write_manifest(_moved(manifest, out, is_sent=is_sent), theirs)
        return made.commit(out)


def _was_begun(folder: Path) -> bool:
    """Whether a run of ours wrote here: its journal comes last, its shards before the manifest."""
    return (folder / rows.JOURNAL).exists() or any(folder.glob(PATTERN))


@dataclass(slots=True)
class _Entry:
    """One case on its way: where its row is or will be, and what the journal will say."""

    case_id: str
    key: str | None = None
    place: RowPlace | None = None
    job: ScanJob | None = None
    files: str | None = None
    known: JournalEntry | None = None


@dataclass
class _Run:
    folder: Path
    spec: GridSpec
    dtype: StoredType
    may_skip: bool
    groups: list[list[_Entry]] = field(default_factory=list)
    shards: list[Shard] = field(default_factory=list)
    failed: list[FailedCase] = field(default_factory=list)
    remade: list[str] = field(default_factory=list)
    num_cases: int = 0
    num_prepared: int = 0

    def plan(self, cases: Iterator[Case], root: str | Path) -> None:
        """Find out what has to be read again; no scan is opened for it."""
        known = rows.read_journal(self.folder)
        places = self._existing_rows()
        is_full = True
        for case in cases:
            if is_full:
                self.groups.append([])
            self.groups[-1].append(self._entry(case, joined(root, case.volume), known.get(case.id), places))
            is_full = len(self.groups[-1]) == MOST_CASES_PER_SHARD or _ends_a_shard(case.id)
            self.num_cases += 1

    def execute(self, *, workers: int, ray_address: str | None, progress: Progress | None) -> None:
        """Prepare what is missing, shard by shard."""
        jobs = [entry.job for group in self.groups for entry in group if entry.job is not None]
        with closing(outcomes_of(jobs, workers=workers, ray_address=ray_address)) as found:
            outcomes = _counted(found, len(jobs), progress)
            for group in self.groups:
                self._fill(group, outcomes)

    def commit(self, out: Path) -> PreparationReport:
        """Make the result visible, then remove what it no longer needs."""
        entries = [entry for group in self.groups for entry in group if entry.key is not None]
        if not entries:
            first = self.failed[0]
            raise InputError(f"none of the {self.num_cases} scans could be prepared; {first.id!r}: {first.reason}")
        index = PreparedIndex(
            spec=self.spec,
            dtype=self.dtype,
            digest=rows.digest_of([entry.key for entry in entries]),
            shards=tuple(self.shards),
            failed=tuple(self.failed),
        )
        index.write(self.folder)
        rows.write_journal(self.folder, [entry.known for entry in entries if entry.known is not None])
        needed = {shard.name for shard in self.shards}
        for path in self.folder.glob(PATTERN):
            if path.name not in needed:
                path.unlink()
        return PreparationReport(
            folder=out,
            num_cases=self.num_cases,
            num_ready=len(entries),
            num_prepared=self.num_prepared,
            num_shards=len(self.shards),
            num_bytes=sum(shard.num_bytes for shard in self.shards),
            digest=index.digest,
            failed=tuple(self.failed),
            remade=tuple(self.remade),
        )

    def _existing_rows(self) -> dict[str, RowPlace]:
        """Rows of whole shards: those of the last complete run by its index, those of a broken run by themselves."""
        for leftover in self.folder.glob(".writing-*"):
            leftover.unlink()
        index = read_index(self.folder)
        indexed = {shard.name: shard for shard in index.shards} if index is not None else {}
        places: dict[str, RowPlace] = {}
        for path in sorted(self.folder.glob(PATTERN)):
            shard = indexed.get(path.name)
            if shard is not None and path.stat().st_size != shard.num_bytes:
                self.remade.append(path.name)
                path.unlink()
            else:
                keys = shard.keys if shard is not None else read_keys(path)
                places |= {key: RowPlace(path, row) for row, key in enumerate(keys)}
        return places

    def _entry(self, case: Case, path: str | Path, known: JournalEntry | None, places: dict[str, RowPlace]) -> _Entry:
        entry = _Entry(case.id)
        try:
            entry.files = stat_fingerprint(path)
        except (OSError, InputError):
            known = None  # the job will say what is wrong with it
        known_content = None
        settings = rows.foreseen_settings(self.spec, known) if known is not None else None
        if known is not None and settings is not None:
            key = rows.row_key(
                case.id, known.content, rows.preprocessing_digest(settings, self.dtype, case.read_options)
            )
            if key in places:
                entry.key, entry.place = key, places[key]
                entry.known = self._journal_line(entry, known.content, settings, known.acquired)
                if known.files == entry.files:
                    return entry
                known_content = known.content
        entry.job = ScanJob(
            case_id=case.id,
            path=str(path),
            spec=self.spec,
            dtype=self.dtype,
            known_content=known_content,
            read_options=case.read_options,
        )
        return entry

    def _journal_line(self, entry: _Entry, content: str, settings: dict[str, object], acquired: str) -> JournalEntry:
        return JournalEntry(
            id=entry.case_id,
            files=entry.files or "",
            content=content,
            asked_window=self.spec.window,
            acquired=acquired,
            settings=settings,
        )

    def _fill(self, group: list[_Entry], outcomes: Iterator[ScanOutcome]) -> None:
        writer, news = VolumeShardWriter(self.folder), list[JournalEntry]()
        try:
            with writer:
                for entry in group:
                    if entry.job is not None:
                        self._settle(entry, next(outcomes), writer)
                        news += [entry.known] if entry.known is not None else []
                    elif entry.key is not None and entry.place is not None:
                        writer.keep(entry.case_id, entry.key, entry.place)
        finally:
            if writer.shard is not None:
                rows.add_to_journal(self.folder, news)
        if writer.shard is not None:
            self.shards.append(writer.shard)

    def _settle(self, entry: _Entry, outcome: ScanOutcome, writer: VolumeShardWriter) -> None:
        assert outcome.case_id == entry.case_id
        if outcome.failure is not None:
            if not self.may_skip:
                kept = f"the {self.num_prepared} scans prepared before it are kept"
                change = "mend it or take it out of the manifest and run again, or pass --on-bad-case skip"
                raise InputError(f"case {entry.case_id!r}: {outcome.failure}; {kept}: {change}")
            self.failed.append(FailedCase(entry.case_id, outcome.failure))
            entry.key = entry.known = None
        elif outcome.facts is None:  # its files were touched, their content is the same
            assert entry.key is not None
            assert entry.place is not None
            writer.keep(entry.case_id, entry.key, entry.place)
        else:
            assert outcome.settings is not None
            entry.key = writer.add(outcome.facts, outcome.voxels)
            entry.known = self._journal_line(entry, outcome.content, outcome.settings, outcome.acquired)
            self.num_prepared += 1


def _counted(found: Iterator[ScanOutcome], total: int, progress: Progress | None) -> Iterator[ScanOutcome]:
    if progress is not None and total:
        progress(0, total)
    for number, outcome in enumerate(found, start=1):
        if progress is not None:
            progress(number, total)
        yield outcome


def _folder_of(manifest: str | Path) -> str | Path:
    return manifest.parent.absolute() if isinstance(manifest, Path) else manifest.rpartition("/")[0]


def _moved(manifest: str | Path, out: Path, *, is_sent: bool) -> Iterator[Case]:
    """The manifest as it reads from another folder, or from anywhere."""
    root = _folder_of(manifest)

    def seen(path: str | None) -> str | None:
        if path is None or os.path.isabs(path):
            return path
        place = joined(root, path)
        return str(place) if is_sent or isinstance(place, str) else os.path.relpath(place, out)

    for case in iter_manifest(manifest):
        yield case.model_copy(update={"volume": seen(case.volume), "labels": seen(case.labels)})


def _ends_a_shard(case_id: str) -> bool:
    return hashlib.sha256(case_id.encode()).digest()[0] % CASES_PER_SHARD == 0
