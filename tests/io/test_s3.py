"""The same with S3's own client against an S3 server on this machine (moto); skipped where either is not installed."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("s3fs", reason="pip install 'slicesight[remote]'")
pytest.importorskip("moto.server", reason="pip install 'moto[s3,server]'")

import boto3
import fsspec
from moto.server import ThreadedMotoServer

from slicesight.errors import VolumeError
from slicesight.io.loading import read_volume
from slicesight.io.mirror import folder_for
from slicesight.io.object_store import list_files, upload
from slicesight.io.writers import write_dicom
from slicesight.volumes.volume import Volume


@pytest.fixture
def bucket(monkeypatch):
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody-long")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-of-the-test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    boto3.client("s3").create_bucket(Bucket="scans")
    yield "s3://scans"
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    server.stop()


def test_a_series_is_written_listed_and_read(bucket, tmp_path):
    affine = np.array([[0, 0, 1.0, 0], [0, 1.0, 0, 0], [3.0, 0, 0, 0], [0, 0, 0, 1]])
    voxels = np.arange(4 * 6 * 5, dtype=np.float32).reshape(4, 6, 5)
    write_dicom(Volume(voxels=voxels, spacing_mm=(3, 1, 1), affine_lps=affine, unit="HU"), tmp_path / "series")
    for file in (tmp_path / "series").iterdir():
        upload(file, f"{bucket}/p/series/{file.name}")
    found = list_files(f"{bucket}/p")
    assert len(found) == 4
    assert all(file.stamp.startswith("ETag=") for file in found)
    assert np.array_equal(read_volume(f"{bucket}/p/series").voxels, read_volume(tmp_path / "series").voxels)


def test_an_output_folder_goes_on_and_what_is_gone_is_gone(bucket):
    with folder_for(f"{bucket}/run") as folder:
        (folder / "a.txt").write_text("1")
        (folder / "b.txt").write_text("2")
    with folder_for(f"{bucket}/run") as folder:
        assert (folder / "a.txt").read_text() == "1"
        (folder / "b.txt").unlink()
    assert [file.name for file in list_files(f"{bucket}/run")] == ["a.txt"]


def test_a_bucket_that_is_not_there_is_one_line(bucket):
    with pytest.raises(VolumeError, match="no such object, folder or bucket"):
        read_volume("s3://another-bucket-of-nobody/scan.nii")


def test_nobody_may_read_without_a_key_and_no_key_is_said(bucket, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(VolumeError, match="may not be read") as raised:
        read_volume(f"{bucket}/scan.nii")
    assert "a-secret" not in str(raised.value)
