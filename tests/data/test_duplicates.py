"""Which cases belong together, what a leak is, and splits that no patient or copy crosses."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from slicesight.data.duplicates import ScanPrint, find_groups, leak_summary, prints_of, split_by_group, without_leaks
from slicesight.data.manifest import Case


def case(name: str, split: str | None, patient: str | None = None) -> Case:
    return Case(id=name, volume=f"/{name}", split=split, patient=patient, conversations=())


LOOK = ["00" * 512, "ff" * 512, "0f" * 512, "33" * 512]


@pytest.fixture
def cases() -> list[Case]:
    return [
        case("a1", "train", "a"),
        case("a2", "train", "a"),
        case("b", "val", "b"),
        case("q", "test", "q"),
        case("c", "train", "c"),
        case("c-again", "test", "c"),
        case("d", "train"),
        case("e", "train", "e"),
        case("e-copy", "train", "f"),
    ]


@pytest.fixture
def prints() -> dict[str, ScanPrint]:
    """q is a2 re-encoded, e-copy the bytes of e."""
    return {
        "a1": ScanPrint("1", LOOK[0]),
        "a2": ScanPrint("2", LOOK[1]),
        "b": ScanPrint("3", LOOK[2]),
        "q": ScanPrint("4", LOOK[1]),
        "c": ScanPrint("5"),
        "c-again": ScanPrint("6"),
        "d": ScanPrint("7"),
        "e": ScanPrint("8", LOOK[3]),
        "e-copy": ScanPrint("8", LOOK[3]),
    }


def test_groups_follow_patient_look_and_content_however_far_round(cases, prints) -> None:
    found = {tuple(c.id for c in group.cases): group for group in find_groups(cases, prints)}
    assert {names: set(group.links) for names, group in found.items()} == {
        ("a1", "a2", "q"): {"patient", "look"},
        ("c", "c-again"): {"patient"},
        ("e", "e-copy"): {"content"},
    }
    assert [names for names, group in found.items() if group.is_leak] == [("a1", "a2", "q"), ("c", "c-again")]


def test_the_summary_counts_what_leaks_and_why(cases, prints) -> None:
    assert leak_summary(find_groups(cases, prints)) == {
        "groups_of_equal_content": 1,
        "groups_of_equal_look": 1,
        "cases_in_them": 5,
        "leaks": 2,
        "leaks_by_patient_only": 1,
        "cases_in_leaks": {"train": 3, "test": 2},
    }


@pytest.mark.parametrize(
    ("leave", "gone"), [("train", {"a1", "a2", "c"}), ("test", {"q", "c-again"})], ids=["train", "test"]
)
def test_one_side_of_every_leak_goes_and_nothing_else(cases, prints, leave, gone) -> None:
    groups = find_groups(cases, prints)
    left = without_leaks(cases, groups, leave=leave)
    assert {c.id for c in cases} - {c.id for c in left} == gone
    assert not [group for group in find_groups(left, prints) if group.is_leak]


def test_val_gives_way_to_test_and_train_to_both() -> None:
    cases = [case("t", "train", "p"), case("v", "val", "p"), case("e", "test", "p"), case("n", None, "p")]
    groups = find_groups(cases, {})
    assert [c.id for c in without_leaks(cases, groups, leave="train")] == ["e", "n"]
    assert [c.id for c in without_leaks(cases, groups, leave="test")] == ["t", "n"]


def test_patients_and_copies_are_dealt_whole_into_splits_of_the_asked_size() -> None:
    cases = [case(f"{patient}-{scan}", None, f"p{patient}") for patient in range(200) for scan in range(3)]
    prints = {c.id: ScanPrint(c.id) for c in cases} | {"0-0": ScanPrint("x"), "1-0": ScanPrint("x")}
    groups = find_groups(cases, prints)
    dealt = split_by_group(cases, groups, seed=0, shares=(80, 10, 10))
    assert [c.id for c in dealt] == [c.id for c in cases]
    by_patient: dict[str, set] = {}
    for c in dealt:
        by_patient.setdefault({"p1": "p0"}.get(c.patient, c.patient), set()).add(c.split)
    assert all(len(splits) == 1 for splits in by_patient.values())
    counts = Counter(next(iter(splits)) for splits in by_patient.values())
    assert counts == {"train": 159, "val": 20, "test": 20}
    assert dealt == split_by_group(cases, groups, seed=0, shares=(80, 10, 10))
    assert dealt != split_by_group(cases, groups, seed=1, shares=(80, 10, 10))


@pytest.mark.parametrize(
    ("count", "shares", "expected"),
    [
        (3, (80, 10, 10), {"train": 1, "val": 1, "test": 1}),
        (5, (80, 0, 20), {"train": 4, "test": 1}),
        (4, (100, 0, 0), {"train": 4}),
        (1, (80, 10, 10), {"train": 1}),
        (2, (80, 10, 10), {"train": 1, "val": 1}),
    ],
)
def test_small_sets_still_have_every_split_that_was_asked_for(count, shares, expected) -> None:
    dealt = split_by_group([case(str(number), None) for number in range(count)], [], seed=3, shares=shares)
    assert Counter(c.split for c in dealt) == expected


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    paths = []
    for number in range(4):
        path = tmp_path / f"{number}.npy"
        np.save(path, np.random.default_rng(number % 3).random((6, 16, 16), dtype=np.float32))
        paths.append(str(path))
    return paths


def test_prints_are_kept_and_only_changed_files_are_read_again(files, tmp_path, monkeypatch) -> None:
    refused: list[str] = []

    def look(paths, depth="look"):
        return prints_of(paths, depth=depth, cache=tmp_path / "prints.jsonl", refuse=lambda p, _: refused.append(p))

    first = look(files)
    assert first[files[0]] == first[files[3]] != first[files[1]]
    kept = (tmp_path / "prints.jsonl").read_bytes()
    read: list[str] = []
    from slicesight.data import duplicates

    real = duplicates.print_of
    monkeypatch.setattr(duplicates, "print_of", lambda path, *how: read.append(path) or real(path, *how))
    assert look(files) == first
    assert (read, refused) == ([], [])
    assert (tmp_path / "prints.jsonl").read_bytes() == kept
    np.save(files[1], np.ones((6, 16, 16)) * np.arange(16))
    (tmp_path / "prints.jsonl").write_text("not json\n" + kept.decode())
    assert look(files)[files[1]] != first[files[1]]
    assert read == [files[1]]


def test_content_alone_needs_no_scan_that_can_be_read(files, tmp_path) -> None:
    Path(files[2]).write_text("not a scan")
    refused: dict[str, str] = {}
    found = prints_of(files, depth="content", cache=tmp_path / "prints.jsonl", refuse=refused.__setitem__)
    assert len(found) == 4
    assert not refused
    assert {held.hash for held in found.values()} == {None}
    found = prints_of(files, depth="look", cache=tmp_path / "prints.jsonl", refuse=refused.__setitem__)
    assert set(refused) == {files[2]}
    assert "this is a text file" in refused[files[2]]
    assert set(found) == {files[0], files[1], files[3]}


def test_two_processes_find_what_one_finds(files, tmp_path) -> None:
    def look(name, workers):
        return prints_of(files, depth="look", cache=tmp_path / name, refuse=lambda *_: None, workers=workers)

    assert look("one", 1) == look("two", 2)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert len(json.loads((tmp_path / "one").read_text().splitlines()[0])["look"]) == 2 * 512
