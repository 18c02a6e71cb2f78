"""Scans and lists in an object store are read as if they lay here, and outputs there are as those here."""

from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from slicesight.errors import InputError, VolumeError
from slicesight.io import mirror, object_store
from slicesight.io.downloads import on_disk
from slicesight.io.loading import read_volume
from slicesight.io.mirror import file_for, folder_for
from slicesight.io.object_store import is_remote, joined, list_files, remote_url, upload
from slicesight.io.writers import write_dicom, write_nifti
from slicesight.volumes.volume import Volume


@pytest.fixture
def store(monkeypatch):
    """An empty store in memory, and no pause between tries."""
    monkeypatch.setattr(object_store, "FIRST_PAUSE_S", 0.0)
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    yield fsspec.filesystem("memory")
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.fixture
def volume():
    voxels = np.arange(4 * 6 * 5, dtype=np.float32).reshape(4, 6, 5)
    affine = np.array([[0, 0, 0.8, 0], [0, 0.8, 0, 0], [2.0, 0, 0, 0], [0, 0, 0, 1]])
    return Volume(voxels=voxels, spacing_mm=(2.0, 0.8, 0.8), affine_lps=affine, unit="HU")


def put(folder: Path, name: str) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            upload(file, f"memory://{name}/{file.relative_to(folder).as_posix()}")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("s3://bucket/a/scan.nii.gz", "s3://bucket/a/scan.nii.gz"),
        (Path("s3://bucket/a/"), "s3://bucket/a"),
        (Path("file:///tmp/a"), "file:///tmp/a"),
        ("abfs://container@account.dfs.core.windows.net/x", "abfs://container@account.dfs.core.windows.net/x"),
    ],
)
def test_an_address_survives_being_made_a_path(written, meant):
    assert is_remote(written)
    assert remote_url(written) == meant


@pytest.mark.parametrize(
    "place", ["scan.nii.gz", "C:/scans/a.nii", "dicomweb+https://h/studies/1/series/2", "https://h/a"]
)
def test_other_places_are_no_object_store(place):
    assert not is_remote(place)


@pytest.mark.parametrize(
    "place",
    [
        "s3://me:hunter22secret@bucket/a",
        "abfs://c@a.dfs.core.windows.net/x?sig=hunter22secret",
        "s3://bucket/a::file://hunter22secret",
    ],
)
def test_an_address_with_a_secret_is_refused_without_repeating_it(place):
    with pytest.raises(InputError, match="holds a password, a query or a chain") as raised:
        remote_url(place)
    assert "hunter22" not in str(raised.value)


def test_names_in_a_list_are_joined_to_where_the_list_lies():
    assert joined("s3://bucket/lists", "../scans/a.nii") == "s3://bucket/scans/a.nii"
    assert joined("here", "s3://bucket/a.nii") == "s3://bucket/a.nii"
    assert joined("here", "a.nii") == Path("here/a.nii")
    with pytest.raises(InputError, match="leads out of s3://bucket"):
        joined("s3://bucket/lists", "../../other/a.nii")


def test_a_file_and_a_series_are_read_as_here(store, volume, tmp_path):
    write_nifti(volume, tmp_path / "scan.nii.gz")
    write_dicom(volume, tmp_path / "series")
    put(tmp_path, "bucket")
    for name in ("scan.nii.gz", "series"):
        here, there = read_volume(tmp_path / name), read_volume(f"memory://bucket/{name}")
        assert np.array_equal(here.voxels, there.voxels)
        assert here.spacing_mm == there.spacing_mm
        assert here.source == there.source


def test_a_header_brings_its_data_file(store, volume, tmp_path):
    (tmp_path / "a.mhd").write_text(
        "ObjectType = Image\nNDims = 3\nDimSize = 5 6 4\nElementType = MET_SHORT\nElementSpacing = 1 1 2\n"
        "ElementDataFile = voxels.raw\n"
    )
    volume.voxels.astype("<i2").tofile(tmp_path / "voxels.raw")
    (tmp_path / "other.raw").write_bytes(b"x" * 10_000)
    put(tmp_path, "bucket")
    with on_disk("memory://bucket/a.mhd") as place:
        assert sorted(file.name for file in place.parent.iterdir()) == ["a.mhd", "voxels.raw"]
    assert read_volume("memory://bucket/a.mhd").shape == (4, 6, 5)


def test_a_scan_read_twice_comes_once_unless_it_has_changed(store, volume, tmp_path, monkeypatch):
    write_nifti(volume, tmp_path / "scan.nii.gz")
    put(tmp_path, "bucket")
    fetched = []
    real = MemoryFileSystem.get_file
    monkeypatch.setattr(
        MemoryFileSystem, "get_file", lambda self, path, *rest: fetched.append(path) or real(self, path, *rest)
    )
    for _ in range(3):
        read_volume("memory://bucket/scan.nii.gz")
    assert len(fetched) == 1
    time.sleep(0.002)
    put(tmp_path, "bucket")
    read_volume("memory://bucket/scan.nii.gz")
    assert len(fetched) == 2


def test_what_is_not_there_is_one_line(store):
    with pytest.raises(
        VolumeError, match=r"^memory://bucket/none.nii: no such object, folder or bucket; check the address$"
    ):
        read_volume("memory://bucket/none.nii")


def test_a_store_that_is_not_installed_is_one_line(monkeypatch):
    def missing(*_, **__):
        raise ImportError("Install gcsfs to access Google Storage")

    monkeypatch.setattr(fsspec, "url_to_fs", missing)
    with pytest.raises(InputError, match=r"gs://b/a: needs gcsfs .*pip install gcsfs"):
        list_files("gs://b/a")


def test_a_throttled_store_is_asked_again_and_a_dead_one_given_up(store, volume, tmp_path, monkeypatch):
    write_nifti(volume, tmp_path / "scan.nii.gz")
    put(tmp_path, "bucket")
    refusals = iter([OSError("SlowDown: reduce your request rate")] * 3)
    real = MemoryFileSystem.get_file

    def get(self, *arguments):
        for refusal in refusals:
            raise refusal
        return real(self, *arguments)

    monkeypatch.setattr(MemoryFileSystem, "get_file", get)
    assert read_volume("memory://bucket/scan.nii.gz").shape == (4, 6, 5)
    refusals = iter([OSError("SlowDown")] * 99)
    put(tmp_path, "bucket2")
    with pytest.raises(VolumeError, match=r"cannot be read after 6 tries \(SlowDown\)"):
        read_volume("memory://bucket2/scan.nii.gz")


def test_half_an_object_is_never_taken_for_one(store, volume, tmp_path, monkeypatch):
    write_nifti(volume, tmp_path / "scan.nii.gz")
    put(tmp_path, "bucket")
    monkeypatch.setattr(MemoryFileSystem, "get_file", lambda self, path, target, **_: Path(target).write_bytes(b"half"))
    with pytest.raises(VolumeError, match=r"4 of \d+ bytes came"):
        read_volume("memory://bucket/scan.nii.gz")


def test_no_secret_is_in_a_message(store, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMIexample")
    monkeypatch.setenv("FSSPEC_S3", json.dumps({"key": "AKIDexample99"}))

    def refuse(*_, **__):
        raise PermissionError(
            "denied: wJalrXUtnFEMIexample AKIDexample99 https://u:pw1@h/x?X-Amz-Signature=abc123def&sig=zzz"
        )

    monkeypatch.setattr(MemoryFileSystem, "info", refuse)
    with pytest.raises(VolumeError, match="may not be read") as raised:
        list_files("memory://bucket/a")
    for secret in ("wJalr", "AKID", "abc123", "zzz", "pw1"):
        assert secret not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_our_own_mistakes_keep_their_traceback(store, monkeypatch):
    monkeypatch.setattr(MemoryFileSystem, "info", lambda *_, **__: [][1])
    with pytest.raises(IndexError):
        list_files("memory://bucket/a")


def test_a_folder_in_the_store_is_gone_on_with_and_what_is_gone_here_goes_there(store):
    with folder_for("memory://bucket/run") as folder:
        (folder / "a.txt").write_text("1")
        (folder / "old").mkdir()
        (folder / "old/b.txt").write_text("2")
        (folder / ".lock").write_text("")
    assert [file.name for file in list_files("memory://bucket/run")] == ["a.txt", "old/b.txt"]
    with folder_for("memory://bucket/run") as folder:
        assert (folder / "a.txt").read_text() == "1"
        (folder / "old/b.txt").unlink()
        (folder / "a.txt").write_text("11")
    assert not folder.exists()
    assert store.cat("/bucket/run/a.txt") == b"11"
    assert [file.name for file in list_files("memory://bucket/run")] == ["a.txt"]


def test_the_index_arrives_after_what_it_names(store, monkeypatch):
    sent = []
    real = mirror.upload
    monkeypatch.setattr(mirror, "upload", lambda file, place: sent.append(file.name) or real(file, place))
    with folder_for("memory://bucket/run") as folder:
        for name in ("shard-2", "shard-1", "an-index"):
            (folder / name).write_text(name)
            time.sleep(0.002)
    assert sent[1:] == ["shard-2", "shard-1", "an-index"]


def test_a_stopped_run_leaves_what_it_had_made(store):
    def killed():
        with folder_for("memory://bucket/run") as folder:
            (folder / "part.txt").write_text("1")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        killed()
    assert store.cat("/bucket/run/part.txt") == b"1"


def test_what_is_new_is_sent_while_the_run_goes_on(store):
    with folder_for("memory://bucket/run", every_s=0.01) as folder:
        (folder / "part.txt").write_text("1")
        deadline = time.monotonic() + 10
        while not store.exists("/bucket/run/part.txt"):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_store_that_cannot_be_written_is_said_before_the_work(store, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError("AccessDenied")

    monkeypatch.setattr(MemoryFileSystem, "put_file", refuse)
    with pytest.raises(InputError, match=r"may not be written \(AccessDenied\)"), folder_for("memory://bucket/run"):
        pytest.fail("the work began")


def test_a_store_that_fails_at_the_end_loses_nothing(store, monkeypatch):
    def refuse(*_, **__):
        raise OSError("gone")

    places = []

    def run():
        with folder_for("memory://bucket/run") as folder:
            places.append(folder)
            (folder / "a.txt").write_text("1")
            monkeypatch.setattr(MemoryFileSystem, "put_file", refuse)

    with pytest.raises(InputError, match="everything is kept in ") as raised:
        run()
    assert str(places[0]) in str(raised.value)
    assert (places[0] / "a.txt").read_text() == "1"
    shutil.rmtree(places[0])


def test_a_file_is_written_with_its_unfinished_parts_and_nothing_else_of_its_folder(store):
    store.pipe("/bucket/other.bin", b"x" * 100)
    store.pipe("/bucket/t.parquet.partial/1", b"1")
    with file_for("memory://bucket/t.parquet", beside=[".partial"]) as place:
        assert [file.name for file in place.parent.rglob("*") if file.is_file()] == ["1"]
        place.write_bytes(b"whole")
        (place.with_name("t.parquet.partial") / "1").unlink()
    assert [file.name for file in list_files("memory://bucket")] == ["other.bin", "t.parquet"]


def test_threads_that_want_the_same_scan_share_its_copy(store, volume, tmp_path):
    write_nifti(volume, tmp_path / "scan.nii.gz")
    put(tmp_path, "bucket")
    places = []

    def take():
        with on_disk("memory://bucket/scan.nii.gz") as place:
            places.append(place)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(places)) == 1
