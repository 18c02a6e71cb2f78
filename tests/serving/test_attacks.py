"""Whatever a stranger sends: one line back, nothing outside the server's folder, nothing in a log, and it lives on."""

from __future__ import annotations

import gzip
import io
import json
import logging
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import httpx
import numpy as np
import pytest

from http_questions import question
from slicesight.errors import InputError
from slicesight.serving.options import ServeOptions, read_size, read_token
from slicesight.serving.scan_store import ScanStore

TOKEN = "0123456789abcdef0123456789abcdef"


def post(client, content, name="scan.nii.gz", **options):
    return client.post("/v1/volumes", files={"file": (name, content)}, **options)


def refused(response, *statuses):
    """The one line of a refusal."""
    assert response.status_code in statuses, response.text
    message = response.json()["error"]["message"]
    assert "\n" not in message
    return message


def zipped(**members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/").replace("UP", ".."), content)
    return file.getvalue()


def nifti_header(*shape):
    header = bytearray(352)
    header[0:4] = (348).to_bytes(4, "little")
    for place, length in enumerate((len(shape), *shape, *(1,) * (7 - len(shape)))):
        header[40 + 2 * place : 42 + 2 * place] = length.to_bytes(2, "little")
    header[70:74] = (4).to_bytes(2, "little") + (16).to_bytes(2, "little")
    header[76:92] = np.ones(4, "<f4").tobytes()
    header[108:112] = np.float32(352).tobytes()
    header[344:348] = b"n+1\0"
    return bytes(header)


def claims(shape):
    """An .npy that claims more than it holds."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return file.getvalue() + b"\0" * 1000


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"", "scan.nii.gz"),
        (zipped(**{"UP__UP__evil.dcm": b"x"}), "scan.zip"),
        (gzip.compress(nifti_header(30000, 30000, 30000)), "scan.nii.gz"),
        *(
            pytest.param(content, name, marks=pytest.mark.slow)
            for content, name in (
                (b"hello", "scan.nii.gz"),
                (b"%PDF-1.7 ...", "scan.pdf"),
                (b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix", "scan.npy"),
                (b"\x1f\x8b\x08\x00damaged", "scan.nii.gz"),
                (b"PK\x03\x04 no zip at all", "scan.zip"),
                (zipped(**{"__etc__evil.dcm": b"x"}), "scan.zip"),
                (zipped(**{"readme.txt": b"x"}), "scan.zip"),
                (nifti_header(30000, 30000, 30000), "scan.nii"),
                (claims((100_000, 100_000, 1000)), "scan.npy"),
                (b"NRRD0004\ntype: float\ndimension: 3\nsizes: 90000 90000 90000\nencoding: raw\n\n00", "scan.nrrd"),
                (b"\0" * 128 + b"DICM" + b"\xff" * 500, "scan.dcm"),
            )
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "content",
)
def test_what_is_no_scan_is_one_line(client, content, name):
    began = time.monotonic()
    message = refused(post(client, content, name), 422)
    assert message
    assert time.monotonic() - began < 120, "it was read as long as it may be"
    assert not list(client.app.state.server.scan_store.incoming.iterdir())


@pytest.mark.slow
def test_a_zip_bomb_is_refused_before_it_is_unpacked(client):
    bomb = zipped(**{"a.dcm": bytes(300 << 20)})
    assert len(bomb) < 1 << 20
    assert "zip bomb" in refused(post(client, bomb, "scan.zip"), 422)


@pytest.mark.slow
def test_a_gzip_bomb_is_refused(client):
    bomb = gzip.compress(nifti_header(512, 512, 600) + bytes(512 * 512 * 600 * 2), compresslevel=1)
    refused(post(client, bomb), 422)


def test_a_clients_file_name_never_reaches_the_disk(client, upload):
    from slicesight.serving.uploads import known_suffix

    found = upload(client, name="../../../evil.nii.gz")
    server = client.app.state.server
    assert not [path for path in server.scan_store.run.rglob("*") if "evil" in path.name]
    client.delete(f"/v1/volumes/{found['id']}")
    names = ("/etc/evil.NII.GZ", "a\\..\\evil.zip", "\0.dcm", "x" * 10_000 + ".npy", ".nrrd/..", "evil", "")
    assert [known_suffix(name) for name in names] == [".nii.gz", ".zip", ".dcm", ".npy", "", "", ""]


def test_an_upload_is_cut_while_it_streams(make_client):
    client = make_client(max_upload_bytes=100_000)
    sent = 0

    def stream():
        nonlocal sent
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.nii"\r\n\r\n'
        for _ in range(1000):
            sent += 100_000
            yield b"0" * 100_000

    found = client.post("/v1/volumes", content=stream(), headers={"content-type": "multipart/form-data; boundary=x"})
    assert "larger" in refused(found, 413)
    refused(post(client, b"0" * 100_001), 413)
    announced = post(client, b"0" * 5_000_000)
    refused(announced, 413)
    assert not list(client.app.state.server.scan_store.incoming.iterdir())


@pytest.mark.parametrize(
    ("content", "content_type", "status"),
    [
        (b"x", "text/plain", 415),
        (b"x", "", 415),
        (b"x", "multipart/form-data", 400),
        (b"x", "multipart/form-data; boundary=x", 400),
        (b"--x\r\n\r\n", "multipart/form-data; boundary=x", 400),
        (
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nhalf',
            "multipart/form-data; boundary=x",
            400,
        ),
        (
            b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + b"0" * 2000,
            "multipart/form-data; boundary=x",
            400,
        ),
        (b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n' * 30, "multipart/form-data; boundary=x", 400),
        (b"{", "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b"[]", "application/json", 400),
        (b"{}", "application/json", 400),
        (b'{"source": "\\ud800"}', "application/json", 400),
        (b'{"source": 3}', "application/json", 400),
    ],
)
def test_a_form_that_is_none_is_one_line(client, content, content_type, status):
    refused(client.post("/v1/volumes", content=content, headers={"content-type": content_type}), status)


def test_json_bodies_are_bounded_in_size_and_depth(client):
    headers = {"content-type": "application/json"}
    refused(client.post("/v1/chat/completions", content=b"0" * (5 << 20), headers=headers), 413)
    refused(client.post("/v1/chat/completions", content=b"[" * 1_000_000, headers=headers), 400)
    half = b'{"model": "tiny-random", "messages": [{"role": "user", "content": "\\ud83d"}]}'
    refused(client.post("/v1/chat/completions", content=half, headers=headers), 400)


@pytest.mark.parametrize(
    "worker",
    ["import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "import time; time.sleep(60)"],
)
def test_a_decoder_that_crashes_or_hangs_takes_nobody_with_it(make_client, phantom_file, monkeypatch, worker):
    from slicesight.serving import isolated_reading as reading

    client = make_client(read_timeout_s=1.0)
    monkeypatch.setattr(reading, "WORKER", ("-c", worker))
    refused(post(client, phantom_file.read_bytes()), 422)
    assert client.get("/healthz").status_code == 200
    assert not list(client.app.state.server.scan_store.incoming.iterdir())


@pytest.mark.slow
def test_a_scan_that_needs_more_memory_than_given_is_refused(make_client):
    file = io.BytesIO()
    np.save(file, np.random.default_rng(0).integers(-1000, 1000, (100, 700, 700)).astype(np.int16))
    client = make_client(read_memory_bytes=600 << 20)
    refused(post(client, file.getvalue(), "scan.npy"), 422)


def test_the_reading_process_leaves_when_the_server_is_gone(tmp_path):
    request = {"folder": str(tmp_path), "memory_bytes": 1 << 34, "cpu_seconds": 60, "series": None}
    code = "import slicesight.serving.reading_worker as w, time\nw._read = lambda *_: (print('at work', flush=True), "
    command = [sys.executable, "-c", f"{code}time.sleep(90))\nw.main()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        worker.stdin.write(json.dumps(request).encode() + b"\n")
        worker.stdin.flush()
        assert worker.stdout.readline() == b"at work\n"
        worker.stdin.close()
        assert worker.wait(60) == 1


# --- who may ask ----------------------------------------------------------------------------------------------------


def test_without_the_token_only_the_page_and_healthz_answer(make_client):
    client = make_client(token=TOKEN, host="0.0.0.0")
    for path in ("/v1/models", "/v1/settings", "/v1/volumes/vol_x", "/metrics", "/openapi.json", "/v1/nothing"):
        for headers in (
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": f"Basic {TOKEN}"},
            {"authorization": TOKEN},
        ):
            found = client.get(path, headers=headers)
            refused(found, 401)
            assert found.headers["www-authenticate"] == "Bearer"
    right = {"authorization": f"Bearer {TOKEN}"}
    assert client.get("/v1/models", headers=right).status_code == 200
    assert client.get("/metrics", headers=right).status_code == 200
    assert client.get("/healthz").status_code == 200
    assert client.get("/").status_code == 200
    assert client.get("/v1/models", headers={"authorization": b"Bearer \xe4"}).status_code == 401


def test_another_machine_is_let_in_only_with_a_token(tmp_path):
    for host in ("0.0.0.0", "::", "192.168.1.2", "example.org"):
        with pytest.raises(InputError, match="--token-file"):
            ServeOptions(host=host)
        assert ServeOptions(host=host, token=TOKEN).token == TOKEN
    for host in ("127.0.0.1", "::1", "localhost", "127.8.8.8"):
        assert ServeOptions(host=host).is_loopback
    with pytest.raises(InputError, match="at least 16"):
        ServeOptions(token="short")
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    assert read_token(file) == TOKEN
    file.write_text("\n")
    with pytest.raises(InputError, match="empty"):
        read_token(file)
    assert (read_size("2GB"), read_size("1.5 MiB"), read_size("7")) == (2 * 10**9, 1_572_864, 7)
    with pytest.raises(InputError, match="max-upload"):
        read_size("many")


def test_a_name_bound_to_this_machine_by_somebody_else_is_refused(client):
    assert client.get("/v1/models", headers={"host": "evil.example:8000"}).status_code == 421
    assert client.get("/", headers={"host": "evil.example"}).status_code == 421
    for host in ("localhost:1", "127.0.0.1", "[::1]:8000"):
        assert client.get("/v1/models", headers={"host": host}).status_code == 200


def test_a_page_from_elsewhere_may_not_post_here(client, phantom_file):
    found = post(client, phantom_file.read_bytes(), headers={"origin": "https://evil.example"})
    assert found.status_code == 403
    assert client.get("/v1/models", headers={"origin": "http://localhost:5173"}).status_code == 200
    assert client.get("/v1/models", headers={"origin": "null"}).status_code == 403


def test_every_response_forbids_what_the_page_does_not_need(client, volume):
    for path in ("/", "/v1/models", f"/v1/volumes/{volume['id']}/image", "/v1/nothing"):
        headers = client.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"


def test_only_named_archives_are_asked(make_client):
    none = make_client()
    source = "dicomweb+http://archive:8042/dicom-web/studies/1.2/series/1.3"
    assert "--archive" in refused(none.post("/v1/volumes", json={"source": source}), 403)
    client = make_client(archives=("http://archive:8042/dicom-web",))
    for elsewhere in (
        "dicomweb+http://169.254.169.254/studies/1.2/series/1.3",
        "dicomweb+http://archive:8043/dicom-web/studies/1.2/series/1.3",
        "dicomweb+http://archive:8042/dicom-web2/studies/1.2/series/1.3",
        "dicomweb+http://archive:8042/dicom-web/../admin/studies/1.2/series/1.3",
        "dicomweb+http://archive:8042@evil/dicom-web/studies/1.2/series/1.3",
        "http://archive:8042/dicom-web/studies/1.2/series/1.3",
        "file:///etc/passwd",
    ):
        refused(client.post("/v1/volumes", json={"source": elsewhere}), 400, 403)


# --- what is left behind --------------------------------------------------------------------------------------------


def test_a_killed_server_leaves_no_scan_once_the_next_one_starts(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from slicesight.serving.scan_store import ScanStore\n"
        "scan_store = ScanStore(folder=Path(sys.argv[1])); (scan_store.volumes / 'vol_1').mkdir()\n"
        "(scan_store.volumes / 'vol_1' / 'scan.json').write_text('{}')\n"
        "print(scan_store.run, flush=True); time.sleep(60)"
    )
    killed = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    left = Path(killed.stdout.readline().strip())
    beside = ScanStore(folder=tmp_path)
    assert (left / "volumes" / "vol_1").is_dir(), "a server that lives keeps its scans"
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert (left / "volumes" / "vol_1").is_dir()
    after = ScanStore(folder=tmp_path)
    assert not left.exists()
    assert beside.run.is_dir()
    beside.close()
    after.close()
    assert not list(tmp_path.rglob("volumes"))


def test_servers_that_share_a_folder_keep_their_scans_until_the_last_has_gone(tmp_path):
    first, second = (ScanStore(folder=tmp_path, is_shared=True) for _ in range(2))
    assert first.volumes == second.volumes
    with first.receiving() as folder:
        (folder / "scan.json").write_text("{}")
        name = first.add(folder, {})
    assert second.find(name).is_dir()
    first.close()
    assert second.find(name).is_dir()
    second.close()
    assert not second.run.exists()


def test_a_folder_of_somebody_else_is_not_used(tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    place = tmp_path / f"slicesight-serve-{os.getuid()}"
    place.symlink_to(elsewhere)
    with pytest.raises(InputError, match="somebody else"):
        ScanStore(folder=tmp_path)
    place.rename(tmp_path / "slicesight-serve-12345")
    place.mkdir()
    place.rename(elsewhere / "slicesight-serve-12345")
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(InputError, match="somebody else"):
        ScanStore(folder=elsewhere)


def test_scans_are_readable_by_nobody_else(client, volume):
    run = client.app.state.server.scan_store.run
    assert run.stat().st_mode & 0o077 == 0
    assert run.parent.stat().st_mode & 0o077 == 0


def test_no_log_line_holds_a_patient_a_file_name_or_a_question(listen_with, phantom, tmp_path, caplog, capfd):
    import pydicom

    from slicesight.io.writers import write_dicom

    caplog.set_level(logging.DEBUG)
    write_dicom(phantom.volume, tmp_path / "series")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for file in sorted((tmp_path / "series").iterdir()):
            image = pydicom.dcmread(file)
            image.PatientName, image.PatientID = "MILLER^ANNA", "MILLER-1"
            image.save_as(file)
            archive.write(file, f"MILLER/{file.name}")
    with listen_with() as (address, _), httpx.Client(base_url=address) as client:
        found = post(client, packed.getvalue(), "MILLER_ANNA.zip").json()
        asked = question(found["id"], "Has Anna MILLER a lesion?")
        for body in (asked, {**asked, "stream": True}, {**asked, "n": 2}, question("vol_MILLER", "MILLER")):
            client.post("/v1/chat/completions?patient=MILLER", json=body)
        client.post("/v1/chat/completions", content=b'{"MILLER": ')
        post(client, b"MILLER", "MILLER.nii.gz")
        client.get("/v1/volumes/MILLER?patient=MILLER")
        client.get("/MILLER", headers={"user-agent": "MILLER"})
        client.request("MILLER", "/v1/models")
        report = client.get(f"/v1/volumes/{found['id']}/report", params={"format": "sr", "answers": "chatcmpl-MILLER"})
        assert report.status_code == 404
    shown = capfd.readouterr()
    said = (
        shown.out
        + shown.err
        + "".join(record.getMessage() for record in caplog.records if not record.name.startswith(("httpx", "httpcore")))
    )
    assert "/v1/volumes/{volume_id}" in said
    assert "miller" not in said.lower()


def test_a_client_that_leaves_while_its_scan_is_read_leaves_nothing(listen_with, phantom_file, monkeypatch, capfd):
    from slicesight.serving import isolated_reading as reading

    monkeypatch.setattr(reading, "WORKER", ("-c", "import time; time.sleep(60)"))
    with listen_with() as (address, server):
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{address}/v1/volumes", files={"file": ("s.nii.gz", phantom_file.read_bytes())}, timeout=1)
        end = time.monotonic() + 60
        while list(server.scan_store.incoming.iterdir()) and time.monotonic() < end:
            time.sleep(0.02)
        assert not list(server.scan_store.incoming.iterdir())
        assert not server.scan_store.volume_ids()
    assert "ERROR" not in capfd.readouterr().err
