"""Which scans of a data set are the same scan, which of them lie in two splits, and what is left without those?

Cases are linked by equal content (the bytes of the scan's files), equal perceptual hash (the link "look") or the same
patient. What is linked, however far round, is one group: M3D-Cap's ct_quizze shows cases of ct_case under other
numbers, and one picture series in common makes all series of the two cases one patient's. A group that lies in two
splits is a leak.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import numpy as np

from slicesight.data.fingerprints import content_digest, stat_fingerprint
from slicesight.data.manifest import SPLITS, Case, Split
from slicesight.data.perceptual_hash import perceptual_hash, similar_pairs
from slicesight.data.workers import one_thread_each
from slicesight.errors import VolumeError
from slicesight.files import write_text
from slicesight.io.downloads import on_disk
from slicesight.io.loading import read_volume

Depth = Literal["look", "content"]
Link = Literal["content", "look", "patient"]
Progress = Callable[[int, int], None]
_WRITE_EVERY = 200


@dataclass(frozen=True)
class ScanPrint:
    """What identifies a scan, as hexadecimal digits: `content` of its files and, for "look", its perceptual `hash`."""

    content: str
    hash: str | None = None


@dataclass(frozen=True)
class Group:
    """Cases that belong together, in the order of the manifest, and what links them."""

    cases: tuple[Case, ...]
    links: frozenset[Link]

    @property
    def splits(self) -> tuple[Split, ...]:
        found = {case.split for case in self.cases}
        return tuple(split for split in SPLITS if split in found)

    @property
    def is_leak(self) -> bool:
        return len(self.splits) > 1

    def to_dict(self) -> dict[str, Any]:
        cases = [{"id": case.id, "split": case.split} for case in self.cases]
        return {"leak": self.is_leak, "links": sorted(self.links), "cases": cases}


def prints_of(
    volumes: Sequence[str],
    *,
    depth: Depth,
    cache: Path,
    refuse: Callable[[str, str], None],
    options: Mapping[str, dict[str, Any]] | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> dict[str, ScanPrint]:
    """The prints of scans by their absolute path.

    Args:
        cache: a JSONL file of prints, by which a scan whose files have not changed is not read again; written as we go.
        options: how to read some of them, as arguments of `read_volume`.
        refuse: called with a path and the reason why its scan cannot be read; what it raises stops the search.
    """
    known = _read_cache(cache)
    asked = {volume: (options or {}).get(volume, {}) for volume in volumes}
    stats = {volume: _stat_of(Path(volume)) + (repr(asked[volume]) if asked[volume] else "") for volume in volumes}
    found = {volume: known[stat] for volume, stat in stats.items() if stat in known}
    if depth == "look":
        found = {volume: before for volume, before in found.items() if before.hash is not None}
    waiting = [volume for volume in stats if volume not in found]
    try:
        for number, (volume, result) in enumerate(_prints(waiting, asked, depth, workers), start=1):
            if isinstance(result, ScanPrint):
                found[volume] = result
            else:
                refuse(volume, result)
            if progress is not None:
                progress(len(stats) - len(waiting) + number, len(stats))
            if number % _WRITE_EVERY == 0:
                _write_cache(cache, stats, found)
    finally:
        _write_cache(cache, stats, found)
    return found if depth == "look" else {volume: ScanPrint(held.content) for volume, held in found.items()}


def print_of(volume: str, options: dict[str, Any], depth: Depth) -> ScanPrint | str:
    """The print of one scan, or why it cannot be read."""
    path = Path(volume)
    try:
        with on_disk(volume) as place:
            content = content_digest(place)
            looks = perceptual_hash(read_volume(place, **options)).tobytes().hex() if depth == "look" else None
        return ScanPrint(content, looks)
    except VolumeError as error:
        return str(error)
    except OSError as error:
        return f"{path.name}: cannot be read ({error.strerror or error}); check the path and the disk"


def find_groups(cases: Sequence[Case], prints: Mapping[str, ScanPrint]) -> list[Group]:
    """Groups of two cases or more that share content, perceptual hash or patient.

    Args:
        prints: by case id; a case without one is linked by its patient only.
    """
    parent = list(range(len(cases)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    contents = (prints[case.id].content if case.id in prints else None for case in cases)
    links: list[tuple[Link, int, int]] = []
    links += [("patient", *pair) for pair in _equal(case.patient for case in cases)]
    links += [("content", *pair) for pair in _equal(contents)]
    links += [("look", *pair) for pair in _similar(cases, prints)]
    for _, first, second in links:
        parent[max(root(first), root(second))] = min(root(first), root(second))
    members: dict[int, list[Case]] = defaultdict(list)
    kinds: dict[int, set[Link]] = defaultdict(set)
    for index, case in enumerate(cases):
        members[root(index)].append(case)
    for kind, first, _ in links:
        kinds[root(first)].add(kind)
    return [Group(tuple(held), frozenset(kinds[key])) for key, held in members.items() if len(held) > 1]


def without_leaks(cases: Sequence[Case], groups: Iterable[Group], *, leave: Literal["train", "test"]) -> list[Case]:
    """The cases with every leak taken out of one side.

    Args:
        leave: "train" keeps the evaluation splits whole, as a new training run wants; "test" keeps the training split
            whole, to evaluate a model that has been trained on it.
    """
    priority: tuple[Split, ...] = ("test", "val", "train") if leave == "train" else ("train", "val", "test")
    dropped: set[str] = set()
    for group in groups:
        if group.is_leak:
            stays = next(split for split in priority if split in group.splits)
            dropped |= {case.id for case in group.cases if case.split not in (stays, None)}
    return [case for case in cases if case.id not in dropped]


def split_by_group(
    cases: Sequence[Case], groups: Sequence[Group], *, seed: int, shares: tuple[float, float, float]
) -> list[Case]:
    """Every case with a split; a group stays whole, and its place follows from the seed and its own name alone.

    Args:
        shares: of train, val and test, in any unit; a share above 0 gets at least one group while there are enough.
    """
    name_of = {case.id: f"case {case.id}" for case in cases}
    for group in groups:
        name_of |= {case.id: f"group {group.cases[0].patient or group.cases[0].id}" for case in group.cases}
    names = sorted(set(name_of.values()), key=lambda name: hashlib.sha256(f"{seed}\0{name}".encode()).digest())
    split_of_name = dict(zip(names, _dealt(len(names), shares), strict=True))
    return [case.model_copy(update={"split": split_of_name[name_of[case.id]]}) for case in cases]


def leak_summary(groups: Sequence[Group]) -> dict[str, Any]:
    """Counts for the summary: groups of one scan, leaks by what links them, and the cases concerned."""
    same_scan = [group for group in groups if group.links & {"content", "look"}]
    leaks = [group for group in groups if group.is_leak]
    in_leaks = Counter(case.split for group in leaks for case in group.cases if case.split)
    return {
        "groups_of_equal_content": sum("content" in group.links for group in groups),
        "groups_of_equal_look": sum("look" in group.links for group in groups),
        "cases_in_them": sum(len(group.cases) for group in same_scan),
        "leaks": len(leaks),
        "leaks_by_patient_only": sum(group.links == {"patient"} for group in leaks),
        "cases_in_leaks": {split: in_leaks[split] for split in SPLITS if in_leaks[split]},
    }


def _dealt(count: int, shares: tuple[float, float, float]) -> list[Split]:
    wanted = [share / sum(shares) * count for share in shares]
    given = [int(size) for size in wanted]
    for index in sorted(range(3), key=lambda i: given[i] - wanted[i])[: count - sum(given)]:
        given[index] += 1
    for index in range(3):  # an empty test split is no split
        richest = given.index(max(given))
        if shares[index] > 0 and given[index] == 0 and given[richest] > 1:
            given[index], given[richest] = 1, given[richest] - 1
    return [split for split, size in zip(SPLITS, given, strict=True) for _ in range(size)]


def _equal(keys: Iterable[str | None]) -> Iterator[tuple[int, int]]:
    first: dict[str, int] = {}
    for index, key in enumerate(keys):
        if key is not None and first.setdefault(key, index) != index:
            yield first[key], index


def _similar(cases: Sequence[Case], prints: Mapping[str, ScanPrint]) -> Iterator[tuple[int, int]]:
    """Pairs of equal hash that are not the same bytes: copies of one file are compared once."""
    first_of: dict[str, int] = {}
    for index, case in enumerate(cases):
        if case.id in prints and prints[case.id].hash is not None:
            first_of.setdefault(prints[case.id].content, index)
    places = list(first_of.values())
    if len(places) < 2:
        return
    hashes = [np.frombuffer(bytes.fromhex(prints[cases[place].id].hash or ""), np.uint8) for place in places]
    for i, j in similar_pairs(np.stack(hashes).reshape(len(hashes), 2, -1)):
        yield places[i], places[j]


def _prints(
    volumes: Sequence[str], options: Mapping[str, dict[str, Any]], depth: Depth, workers: int
) -> Iterator[tuple[str, ScanPrint | str]]:
    if workers == 1 or len(volumes) < 2:
        for volume in volumes:
            yield volume, print_of(volume, options[volume], depth)
        return
    with one_thread_each(), ProcessPoolExecutor(min(workers, len(volumes)), mp_context=get_context("spawn")) as pool:
        how = [options[volume] for volume in volumes]
        yield from zip(volumes, pool.map(print_of, volumes, how, [depth] * len(volumes), chunksize=4), strict=True)


def _stat_of(path: Path) -> str:
    try:
        return stat_fingerprint(path)
    except (OSError, VolumeError):
        return f"unreadable {path}"


def _read_cache(cache: Path) -> dict[str, ScanPrint]:
    """Prints by the scan's stat fingerprint; a damaged line is read again from the scan."""
    found: dict[str, ScanPrint] = {}
    for line in cache.read_text(encoding="utf-8", errors="replace").splitlines() if cache.is_file() else ():
        try:
            facts = json.loads(line)
            found[facts["stat"]] = ScanPrint(facts["content"], facts["look"])
        except (json.JSONDecodeError, KeyError, TypeError):
            continue
    return found


def _write_cache(cache: Path, stats: Mapping[str, str], found: Mapping[str, ScanPrint]) -> None:
    facts = ({"stat": stats[volume], "content": held.content, "look": held.hash} for volume, held in found.items())
    write_text(cache, text="".join(sorted(f"{json.dumps(fact)}\n" for fact in facts)))
