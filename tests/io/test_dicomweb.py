"""Does a series come out of an archive whole or not at all, and does every failure say so in one line?"""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest

from archives import DICOM_PARTS, JSON, SERIES, STUDY, Reply, SmallArchive, as_parts, listing, small_archive
from slicesight.errors import InputError
from slicesight.io.dicomweb import client
from slicesight.io.dicomweb.address import is_address, read_address, read_archive
from slicesight.io.dicomweb.client import fetch, fetched, read_token, store
from slicesight.io.loading import read_volume


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[SmallArchive]:
    """A small archive; no token and no password of whoever runs the tests; temporary folders below tmp_path."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.delenv(client.TOKEN_VARIABLE, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with small_archive() as found:
        yield found


def refused(address: str | Path, **settings: object) -> str:
    """The line a fetch fails with; nothing is left behind."""
    with pytest.raises(InputError) as caught, fetched(read_address(address), **settings):
        raise AssertionError("the folder was given out")
    line = str(caught.value)
    assert "\n" not in line
    assert ";" in line
    assert not list(Path(tempfile.gettempdir()).iterdir())
    return line


# --- the series ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_path", [False, True])
@pytest.mark.parametrize("with_study", [False, True])
def test_a_series_of_an_archive_is_read_like_its_folder(archive, dicom_folder, with_study, as_path):
    folder = dicom_folder()
    archive.holds(folder)
    address = archive.address if with_study else archive.address.replace(f"/studies/{STUDY}", "")
    volume = read_volume(Path(address) if as_path else address)
    from_disk = read_volume(folder)
    np.testing.assert_array_equal(volume.voxels, from_disk.voxels)
    assert volume.sop_instance_uids == from_disk.sop_instance_uids
    assert volume.source == from_disk.source
    (_, path, headers) = archive.asked[-1]
    assert path == f"/dicom-web/studies/{STUDY}/series/{SERIES}"
    assert headers["Accept"] == 'multipart/related; type="application/dicom"; transfer-syntax=*'
    assert headers["Host"] == archive.url.split("/")[2]
    assert not list(Path(tempfile.gettempdir()).iterdir())


def test_progress_counts_to_what_the_archive_lists(archive, dicom_folder):
    archive.holds(dicom_folder())
    seen = []
    with fetched(archive.address, progress=lambda done, total: seen.append((done, total))) as folder:
        assert folder.name == SERIES
        assert len(list(folder.iterdir())) == 6
    assert seen == [(number, 6) for number in range(1, 7)]


@pytest.mark.parametrize("status", [400, 404, 501])
def test_an_archive_that_cannot_search_is_asked_for_the_series_itself(archive, dicom_folder, status):
    archive.holds(dicom_folder())
    archive.listed = Reply(status=status)
    assert read_volume(archive.address).num_source_slices == 6


def test_an_archive_that_sends_no_packed_pixels_is_asked_for_plain_ones(archive, dicom_folder):
    archive.holds(dicom_folder())
    whole = archive.series
    archive.series = lambda accept: Reply(status=406) if "*" in accept else whole
    assert read_volume(archive.address).num_source_slices == 6


def test_a_search_that_heeds_no_filter_is_searched_here(archive, dicom_folder):
    archive.holds(dicom_folder())
    other = json.loads(listing(modality="SR", count=1).body)[0]
    other["0020000E"]["Value"] = ["9.9.9"]
    archive.listed = Reply(body=json.dumps([other, *json.loads(listing(count=6).body)]).encode())
    assert read_volume(archive.address).num_source_slices == 6


def test_memory_holds_one_image_at_a_time(archive, tmp_path, monkeypatch):
    """Counted in images, not in bytes: what else this process allocates meanwhile depends on the machine's load."""
    folder, here = tmp_path / "many", tmp_path / "here"
    folder.mkdir()
    here.mkdir()
    image = pydicom.Dataset()
    image.SOPClassUID, image.PixelData = "1.2.840.10008.5.1.4.1.1.2", bytes(1 << 20)
    image.ensure_file_meta()
    image.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    image["PixelData"].VR = "OW"
    for number in range(24):
        image.SOPInstanceUID = f"1.2.{number}"
        image.save_as(folder / f"{number:02d}.dcm", enforce_file_format=True)
    archive.holds(folder)
    series, images, alive, ahead = client._instances, [], [], []

    def watched(talk, *uids):
        for instance in series(talk, *uids):
            images.append(weakref.ref(instance))
            alive.append(sum(one() is not None for one in images))
            ahead.append(talk.num_bytes - (len(images) << 20))
            yield instance
            del instance

    monkeypatch.setattr(client, "_instances", watched)
    assert fetch(read_address(archive.address), here) == 24
    assert max(alive) <= 2, "this one, and the one before until it is written over"
    assert max(ahead) < 3 << 20, "read from the archive and not yet handed on: a chunk and what is left of the last"


# --- what can go wrong -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "refuses (401); give a token"),
        (403, "refuses (403); give a token"),
        (404, "nothing at this address (404)"),
        (500, "failed (500)"),
        (503, "is busy (503); try again later"),
        (302, "another address (302), which is not followed"),
    ],
)
@pytest.mark.parametrize("at", ["listed", "series"])
def test_an_archive_that_refuses_is_quoted(archive, status, words, at):
    reply = Reply(status=status, headers={"Location": archive.url + "/elsewhere"} if status == 302 else {})
    setattr(archive, at, reply)
    address = archive.address.replace(f"/studies/{STUDY}", "") if at == "listed" else archive.address
    assert words in refused(address)
    assert not any("elsewhere" in path for _, path, _ in archive.asked)


def test_no_such_series_no_images_and_no_scan_are_told_apart(archive):
    archive.listed = Reply()
    assert "has no series" in refused(archive.address.replace(f"/studies/{STUDY}", ""))
    archive.listed = listing(modality="SR", count=1)
    assert "holds SR objects, no images" in refused(archive.address)
    archive.listed = listing(count=0)
    assert "is empty" in refused(archive.address)


@pytest.mark.parametrize("says_length", [True, False])
@pytest.mark.parametrize("cut", [8, 100, 3000])
def test_an_answer_cut_short_is_never_taken_for_the_series(archive, dicom_folder, cut, says_length):
    archive.holds(dicom_folder(), cut=cut, says_length=says_length)
    archive.listed = listing()
    assert "cut short" in refused(archive.address)


def test_a_part_that_is_called_a_part_is_not_the_series(archive, dicom_folder):
    archive.holds(dicom_folder(), status=206)
    archive.listed = listing()
    assert "only a part of the series" in refused(archive.address)


def test_fewer_images_than_listed_are_noticed(archive, dicom_folder):
    archive.holds(dicom_folder())
    archive.listed = listing(count=7)
    assert "sent 6 of the series' 7 images" in refused(archive.address)


def test_what_no_archive_answers_is_said(archive):
    archive.series = Reply(kind="text/html", body=b"<html>please log in</html>")
    assert "does not answer as DICOMweb does (text/html" in refused(archive.address)
    archive.series = Reply(kind=DICOM_PARTS, body=b"--the-boundary\r\n\r\nno DICOM\r\n--the-boundary--\r\n")
    assert "does not answer as DICOMweb does" in refused(archive.address)
    for body in (b"{", b"[3]", b'"a"'):
        archive.listed = Reply(body=body)
        assert "does not answer as DICOMweb does" in refused(archive.address)


def test_more_than_the_limit_is_not_taken(archive, dicom_folder):
    archive.holds(dicom_folder(shape=(6, 120, 100)))
    assert "sends more than" in refused(archive.address, max_bytes=20_000)


def test_silence_ends(archive, dicom_folder, monkeypatch):
    archive.holds(dicom_folder(), wait_s=0.5)
    monkeypatch.setattr(client, "READ_S", 0.1)
    assert "silent" in refused(archive.address)
    monkeypatch.setattr(client, "READ_S", 5.0)
    monkeypatch.setattr(client, "WHOLE_S", 0.1)
    assert "has been sending for" in refused(archive.address)


def test_nobody_there_is_said(archive):
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        assert "cannot be reached" in refused(f"dicomweb+http://127.0.0.1:{port}/rs/series/{SERIES}")
    assert "does not speak TLS" in refused(archive.address.replace("http:", "https:"))


def test_a_certificate_is_checked_against_the_hospitals_own(archive, dicom_folder, tmp_path, monkeypatch):
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl makes the certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = (
        f"{openssl} req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    )
    subprocess.run([*command.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    archive.server.socket = context.wrap_socket(archive.server.socket, server_side=True)
    archive.holds(dicom_folder())
    address = archive.address.replace("http:", "https:")
    assert "its certificate is not trusted" in refused(address, token="very-secret")
    assert not archive.asked
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    with fetched(address, token="very-secret"):
        assert authorization(archive) == {"Bearer very-secret"}


def test_the_folder_is_gone_when_the_reader_fails(archive, dicom_folder):
    archive.holds(dicom_folder(lambda dataset, index: dataset.__delattr__("ImagePositionPatient")))
    with pytest.raises(InputError, match=f"^{SERIES}: a slice has no ImagePositionPatient"):
        read_volume(archive.address)
    assert not list(Path(tempfile.gettempdir()).iterdir())


# --- who asks --------------------------------------------------------------------------------------------------------


def authorization(archive: SmallArchive) -> set[str | None]:
    return {headers.get("Authorization") for _, _, headers in archive.asked}


def test_a_token_comes_from_a_file_the_environment_or_netrc(archive, dicom_folder, tmp_path, monkeypatch):
    archive.holds(dicom_folder())
    with fetched(archive.address):
        assert authorization(archive) == {None}
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login u password p\n")
    archive.asked.clear()
    with fetched(archive.address):
        assert authorization(archive) == {"Basic dTpw"}
    monkeypatch.setenv(client.TOKEN_VARIABLE, "of-the-environment")
    archive.asked.clear()
    with fetched(archive.address):
        assert authorization(archive) == {"Bearer of-the-environment"}
    (tmp_path / "token").write_text("of-the-file\n")
    archive.asked.clear()
    with fetched(archive.address, token=read_token(tmp_path / "token")):
        assert authorization(archive) == {"Bearer of-the-file"}


@pytest.mark.parametrize("content", ["", "two words", "a\nb", "ü"])
def test_a_token_file_holds_one_word(tmp_path, content):
    (tmp_path / "token").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match="expected one token") as caught:
        read_token(tmp_path / "token")
    assert not content or content not in str(caught.value).removeprefix(str(tmp_path))


def test_no_token_leaves_over_an_open_line(archive):
    line = refused(f"dicomweb+http://archive.hospital/rs/series/{SERIES}", token="very-secret")
    assert "unencrypted" in line
    assert "secret" not in line


# --- the way back ----------------------------------------------------------------------------------------------------


def told(uid: str, **more: object) -> bytes:
    """STOW's answer in JSON."""
    done = {"00081199": {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": [uid]}}]}}
    return json.dumps({**done, **more}).encode()


@pytest.fixture
def report(dicom_folder) -> Path:
    """Any DICOM object will do."""
    return sorted(dicom_folder(name="report").iterdir())[0]


def test_a_report_is_stored_as_it_is(archive, report):
    uid = str(pydicom.dcmread(report).SOPInstanceUID)
    archive.stored = Reply(body=told(uid))
    assert store(report, archive=archive.url) == uid
    (method, path, headers) = archive.asked[-1]
    assert (method, path) == ("POST", "/dicom-web/studies")
    assert headers["Content-Type"].startswith('multipart/related; type="application/dicom"; boundary=')
    assert pydicom.dcmread(report).PixelData in archive.posted[0]


@pytest.mark.parametrize("status", [200, 409])
def test_the_archives_reason_for_not_storing_is_said(archive, report, status):
    failed = {"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [0x0122]}}]}}
    archive.stored = Reply(status=status, body=json.dumps(failed).encode())
    with pytest.raises(InputError, match="does not keep structured reports"):
        store(report, archive=archive.url)


@pytest.mark.parametrize("body", [b"", b"[]", b"<NativeDicomModel", b"{}"])
def test_an_odd_answer_is_checked_by_a_search(archive, report, body):
    uid = str(pydicom.dcmread(report).SOPInstanceUID)
    archive.stored = Reply(body=body)
    with pytest.raises(InputError, match="took the report but does not list it"):
        store(report, archive=archive.url)
    archive.instances = Reply(body=json.dumps([{"00080018": {"vr": "UI", "Value": [uid]}}]).encode())
    assert store(report, archive=archive.url) == uid


# --- addresses -------------------------------------------------------------------------------------------------------


def test_an_address_is_taken_apart():
    found = read_address("dicomweb+https://Host:443/pacs/aets/A/rs/studies/1.2/series/3.4/")
    assert (found.archive, found.study_uid, found.series_uid) == ("https://host/pacs/aets/A/rs", "1.2", "3.4")
    assert str(found) == "dicomweb+https://host/pacs/aets/A/rs/studies/1.2/series/3.4"
    assert read_address(str(found)) == found
    assert read_address("dicomweb+http://[::1]:8042/dicom-web/series/3.4").archive == "http://[::1]:8042/dicom-web"
    assert read_address("dicomweb+http://h/studies/1/series/2").archive == "http://h"
    assert is_address(Path("dicomweb+https://h/x"))
    assert not is_address("scan.nii.gz")


@pytest.mark.parametrize(
    "address",
    [
        "dicomweb+https://host/dicom-web/studies/1.2",
        "dicomweb+https://host/dicom-web/studies/1.2/series/x",
        "dicomweb+https://host/dicom-web/studies/../series/1.2",
        "dicomweb+https://host/dicom-web/series/" + "1" * 65,
        "dicomweb+https://host/a/../dicom-web/series/1.2",
        "dicomweb+https://host/%2e%2e/series/1.2",
        "dicomweb+https://host/rs/series/1.2?x=1",
        "dicomweb+https://host/rs?x=/series/1.2",
        "dicomweb+https://host/rs#/series/1.2",
        "dicomweb+https://me:secret@host/rs/series/1.2",
        "dicomweb+https://host:99999/rs/series/1.2",
        "dicomweb+https:///series/1.2",
        "dicomweb+https://ho st\n/rs/series/1.2",
        "dicomweb+ftp://host/rs/series/1.2",
        "https://host/rs/series/1.2",
    ],
)
def test_what_is_no_address_is_refused_in_one_line(address):
    with pytest.raises(InputError) as caught:
        read_address(address)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_server_goes_only_where_its_keeper_said():
    named = ["http://pacs:80/dicom-web/", "https://other/rs"]
    for good in ("http://PACS/dicom-web", "https://other/rs", "https://other:443/rs/aets/x"):
        assert read_address(f"dicomweb+{good}/series/1.2", allowed=named)
    for bad in (
        "http://pacs/dicom-web-secret",
        "http://pacs/other",
        "https://pacs/dicom-web",
        "http://pacs:8042/dicom-web",
        "http://pacs.evil/dicom-web",
        "http://127.0.0.1/dicom-web",
    ):
        with pytest.raises(InputError, match="is not among the archives"):
            read_address(f"dicomweb+{bad}/series/1.2", allowed=named)
    with pytest.raises(InputError, match="is not among the archives"):
        read_address("dicomweb+http://pacs/dicom-web/series/1.2", allowed=[])
    assert read_archive("dicomweb+https://Host:443/rs/") == "https://host/rs"


def test_json_is_asked_for_where_it_is_read(archive, dicom_folder):
    archive.holds(dicom_folder())
    read_volume(archive.address)
    assert JSON in archive.asked[0][2]["Accept"]
    assert as_parts([]) == b"\r\n--the-boundary--\r\n"
