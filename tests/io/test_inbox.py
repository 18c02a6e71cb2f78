"""A scan in an inbox is given once it is whole, once, and again only when it is another one."""

from __future__ import annotations

import shutil

import pytest

from slicesight.io.inbox import Inbox
from slicesight.io.scan_tree import ScanFinder


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def inbox(tmp_path, clock):
    (tmp_path / "inbox").mkdir()
    return Inbox(ScanFinder(tmp_path / "inbox"), settle_seconds=10, clock=clock)


def names(inbox):
    return [scan.name for scan in inbox.whole()]


def test_a_series_is_given_when_nothing_was_added_for_a_while_and_only_once(inbox, dicom_folder, clock):
    files = sorted(dicom_folder().iterdir())
    folder = inbox.finder.base / "series"
    folder.mkdir()
    for clock.now, file in enumerate(files):
        shutil.copy2(file, folder)  # with its old time
        assert names(inbox) == []
    clock.now = len(files) - 1 + 9.9
    assert names(inbox) == []
    assert inbox.num_waiting == 1
    clock.now = len(files) - 1 + 10
    (scan,) = inbox.whole()
    assert (scan.name, len(scan.files)) == ("series", len(files))
    clock.now += 100
    assert names(inbox) == []
    assert inbox.num_waiting == 0


def test_a_late_slice_makes_it_another_scan(inbox, dicom_folder, clock):
    files = sorted(dicom_folder().iterdir())
    folder = inbox.finder.base / "series"
    folder.mkdir()
    for file in files[:-1]:
        shutil.copy(file, folder)
    inbox.whole()
    clock.now = 10
    assert names(inbox) == ["series"]
    shutil.copy(files[-1], folder)
    clock.now = 20
    assert names(inbox) == []
    clock.now = 30
    assert names(inbox) == ["series"]


def test_what_is_gone_before_it_was_whole_is_forgotten(inbox, phantom_file, clock):
    file = inbox.finder.base / "a.nii.gz"
    shutil.copy(phantom_file, file)
    inbox.whole()
    file.unlink()
    assert names(inbox) == []
    assert inbox.num_waiting == 0
