"""Only below the roots: dots, links, devices, archives, headers that name other files, and scans that are too large."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from slicesight.errors import InputError
from slicesight.serving.agents.roots import Roots


@pytest.fixture
def place(tmp_path):
    """root/ with a scan, outside/ with one that nobody may read."""
    for name in ("root/deep", "outside"):
        (tmp_path / name).mkdir(parents=True)
        np.save(tmp_path / name / "scan.npy", np.zeros((2, 2, 2)))
    return tmp_path


def refused(roots: Roots, name: str, **limits) -> str:
    with pytest.raises(InputError) as caught:
        roots.scan(name, max_bytes=limits.get("max_bytes", 10**6))
    line = str(caught.value)
    assert "\n" not in line
    assert ";" in line
    return line


def test_a_scan_is_found_below_the_root_by_path_and_by_the_roots_name(place):
    roots = Roots([place / "root"])
    expected = (place / "root/deep/scan.npy").resolve()
    for name in ("deep/scan.npy", "./deep/../deep/scan.npy", "root/deep/scan.npy", str(expected)):
        assert roots.scan(name, max_bytes=10**6) == expected
    assert roots.name_of(expected) == "deep/scan.npy"


@pytest.mark.parametrize(
    "name",
    [
        "../outside/scan.npy",
        "deep/../../outside/scan.npy",
        "../outside/nothing.npy",
        "/etc/passwd",
        "/etc/no-such-file",
        "root/../../outside/scan.npy",
        "/proc/self/environ",
        "~/scan.npy/../../../../../etc/passwd",
    ],
)
def test_what_lies_outside_is_refused_in_the_same_words_whether_it_is_there_or_not(place, name):
    line = refused(Roots([place / "root"]), name)
    assert line == f"{name}: lies outside the folders that may be read (root); list_scans says what there is"


def test_a_folder_whose_name_begins_like_the_roots_is_outside(place):
    (place / "root-2").mkdir()
    np.save(place / "root-2/scan.npy", np.zeros((2, 2, 2)))
    assert "outside" in refused(Roots([place / "root"]), str(place / "root-2/scan.npy"))


def test_links_that_lead_out_are_refused_and_links_within_are_followed(place):
    (place / "root/away.npy").symlink_to(place / "outside/scan.npy")
    (place / "root/away").symlink_to(place / "outside")
    (place / "root/within.npy").symlink_to(place / "root/deep/scan.npy")
    (place / "root/loop.npy").symlink_to(place / "root/loop.npy")
    roots = Roots([place / "root"])
    for name in ("away.npy", "away/scan.npy"):
        assert "outside the folders" in refused(roots, name)
    assert roots.scan("within.npy", max_bytes=10**6).name == "scan.npy"
    assert "list_scans" in refused(roots, "loop.npy")


def test_a_folder_with_one_file_that_leads_out_is_refused_whole(place):
    (place / "root/deep/slice.dcm").symlink_to(place / "outside/scan.npy")
    assert "slice.dcm leads outside" in refused(Roots([place / "root"]), "deep")


def test_a_header_whose_voxels_lie_behind_a_link_that_leads_out_is_refused(place):
    (place / "root/voxels.raw").symlink_to(place / "outside/scan.npy")
    (place / "root/scan.mhd").write_text(
        "ObjectType = Image\nNDims = 3\nDimSize = 2 2 2\nElementType = MET_SHORT\nElementDataFile = voxels.raw\n"
    )
    assert "voxels.raw leads outside" in refused(Roots([place / "root"]), "scan.mhd")


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 5000, "x" * 300, "dicomweb+http://127.0.0.1/studies/1/series/2"])
def test_what_can_be_no_name_is_refused(place, name):
    refused(Roots([place / "root"]), name)


def test_devices_and_pipes_are_refused_without_opening_them(place):
    os.mkfifo(place / "root/pipe.npy")
    assert "device or pipe" in refused(Roots([place / "root"]), "pipe.npy")
    assert [one.name for one in Roots([place / "root"]).listed(place / "root", count=9)[0]] == ["deep/scan.npy"]


def test_a_scan_larger_than_allowed_is_refused_before_it_is_read(place):
    with (place / "root/huge.npy").open("wb") as stream:
        stream.truncate(10**12)
    assert "1000.00 GB in 1 files" in refused(Roots([place / "root"]), "huge.npy", max_bytes=2 * 10**9)


def test_two_roots_are_told_apart_and_a_name_in_both_is_asked_about(place):
    (place / "other" / "root" / "deep").mkdir(parents=True)
    np.save(place / "other" / "root" / "deep" / "scan.npy", np.zeros((2, 2, 2)))
    roots = Roots([place / "root", place / "other" / "root"])
    assert list(roots.names) == ["root", "root-2"]
    assert "is in 2 roots; say which: root/deep/scan.npy, root-2/deep/scan.npy" in refused(roots, "deep/scan.npy")
    assert roots.find("root-2/deep/scan.npy") == (place / "other" / "root" / "deep" / "scan.npy").resolve()


def test_listing_counts_folders_of_slices_once_follows_no_link_and_says_where_it_stops(place):
    root = place / "root"
    (root / "series").mkdir()
    for number in range(3):
        (root / "series" / f"{number}.dcm").write_bytes(b"x" * 10)
    (root / "series" / ".hidden.dcm").write_bytes(b"x")
    (root / "notes.txt").write_text("no scan")
    (root / "linked").symlink_to(place / "outside")
    (root / "away.npy").symlink_to(place / "outside/scan.npy")
    found, is_complete = Roots([root]).listed(root.resolve(), count=9)
    assert [(one.name, one.kind, one.num_files, one.num_bytes) for one in found] == [
        ("deep/scan.npy", "npy", 1, Path(root / "deep/scan.npy").stat().st_size),
        ("series", "folder of slices", 3, 30),
    ]
    assert is_complete
    assert Roots([root]).listed(root.resolve(), count=1)[1] is False
