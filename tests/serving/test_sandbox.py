"""The process that reads a stranger's file reaches nothing but its folder: no other file, no network, no secret."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading

import pytest

from http_questions import metric
from slicesight.serving import isolated_reading, sandbox, server

CONFINED = """
import json, os, resource, socket, sys, pathlib, threading
from slicesight.serving import sandbox
folder, secret, port = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
sandbox.limit_resources(memory_bytes=4 << 30, cpu_seconds=7, file_bytes=1 << 20)
shut = sandbox.confine(folder, needs_network=False)

def tries(action):
    try:
        action()
        return "done"
    except OSError as error:
        return type(error).__name__

def fails(*arguments):
    import ctypes
    system = ctypes.CDLL(None, use_errno=True)
    if system.syscall(*arguments) < 0:
        raise OSError(ctypes.get_errno(), "refused")

import numpy, nibabel, pydicom  # what it is made of can still be loaded
print(json.dumps({
    "shut": sorted(shut),
    "read": tries(lambda: open(secret).read()),
    "list": tries(lambda: os.listdir("/root" if os.getuid() == 0 else "/home")),
    "write": tries(lambda: open(secret + ".new", "w")),
    "run": tries(lambda: os.execv(sys.executable, [sys.executable, "-c", "print(1)"])),
    "trace": tries(lambda: fails(101 if os.uname().machine == "x86_64" else 117, 16, os.getppid())),  # attach
    "own": tries(lambda: (folder / "a").write_text("x")),
    "tcp": tries(lambda: socket.create_connection(("127.0.0.1", port), 20)),
    "udp": tries(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", port))),
    "large": tries(lambda: (folder / "b").write_bytes(bytes(2 << 20))),
    "cpu": resource.getrlimit(resource.RLIMIT_CPU)[0],
    "oom": open("/proc/self/oom_score_adj").read().strip(),
}))
"""


def test_a_confined_process_reaches_nothing_but_its_folder(tmp_path):
    secret = tmp_path / "netrc"
    secret.write_text("machine archive password x")
    folder = tmp_path / "own"
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-c", CONFINED, str(folder), str(secret), str(port)],
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    if not set(sandbox.PARTS) <= set(found["shut"]):
        pytest.skip(f"this kernel shuts only {found['shut']}")
    assert found["own"] == "done"
    assert found["large"] == "OSError"
    assert {found[name] for name in ("read", "list", "write", "run", "trace")} == {"PermissionError"}
    assert "done" not in (found["tcp"], found["udp"])
    assert (found["cpu"], found["oom"]) == (7, "1000")


def test_without_a_namespace_there_is_still_no_socket(tmp_path):
    """As in containers that forbid one."""
    code = (
        "import sys, socket; from slicesight.serving import sandbox\n"
        "loaded = sandbox.ctypes.CDLL\n"
        "class NoNamespace:\n"
        "    def __init__(self, *names, **settings): self.real = loaded(*names, **settings)\n"
        "    def __getattr__(self, name): return (lambda *_: -1) if name == 'unshare' else getattr(self.real, name)\n"
        "sandbox.ctypes.CDLL = NoNamespace\n"
        "shut = sandbox.confine(sandbox.Path(sys.argv[1]), needs_network=sys.argv[2] == 'yes')\n"
        "try:\n    socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n    print(*sorted(shut), 'open')\n"
        "except PermissionError:\n    print(*sorted(shut), 'refused')\n"
    )
    for needs_network, end in (("no", "refused"), ("yes", "open")):
        command = [sys.executable, "-c", code, str(tmp_path), needs_network]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        *shut, found = done.stdout.split()
        if "calls" not in shut:
            pytest.skip("this kernel has no seccomp")
        assert found == end
        assert ("network" in shut) == (end == "refused")


@pytest.mark.parametrize(
    ("shut", "warned"),
    [
        ("files network calls", ""),
        ("files calls", "network"),
        ("calls", "files and network"),
        ("files network", "calls"),
    ],
)
def test_what_this_machine_leaves_open_is_a_warning_at_the_start_and_a_figure(make_client, monkeypatch, shut, warned):
    said = []
    monkeypatch.setattr(server, "what_is_shut", lambda: frozenset(shut.split()))
    monkeypatch.setattr(server.log, "warning", lambda line, part: said.append(line % part))
    client = make_client()
    assert [one.rpartition(": ")[2] for one in said] == [warned] * bool(warned)
    for part in sandbox.PARTS:
        assert metric(client, "reading_shut", part=part) == (part in shut)


def test_the_trial_finds_what_a_reading_process_finds(tmp_path):
    code = (
        "import sys; from slicesight.serving.sandbox import *; print(*confine(Path(sys.argv[1]), needs_network=False))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert sandbox.what_is_shut() == set(done.stdout.split())


def test_nothing_in_the_folder_the_server_was_started_in_is_loaded(make_client, upload, tmp_path, monkeypatch):
    (tmp_path / "gzip.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    upload(make_client())


def test_reading_from_an_archive_sees_of_its_users_folder_only_the_netrc(tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    for name in (".netrc", "key"):
        (home / name).write_text("x")
    monkeypatch.setenv("HOME", str(home))
    code = (
        "import sys; from slicesight.serving.sandbox import *\n"
        "print('files' in confine(Path(sys.argv[1]), needs_network=True))\n"
        "for name in ('.netrc', 'key'):\n"
        "    try:\n        print(open(os.path.expanduser('~/') + name).read())\n"
        "    except OSError:\n        print('refused')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, os.devnull], capture_output=True, text=True, check=True)
    is_shut, *found = done.stdout.split()
    if is_shut == "False":
        pytest.skip("this kernel has no Landlock")
    assert found == ["x", "refused"]


def test_an_upload_is_read_without_the_servers_secrets(make_client, phantom_file, tmp_path, monkeypatch):
    told = tmp_path / "told"
    worker = "import os, sys, json; f = json.loads(sys.stdin.readline())['folder']; "
    worker += f"open({str(told)!r}, 'w').write(json.dumps(dict(os.environ)))"
    for name in ("SLICESIGHT_ARCHIVE_TOKEN", "NETRC", "HTTPS_PROXY", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setattr(isolated_reading, "WORKER", ("-c", worker))
    client = make_client(archives=("http://archive:8042/dicom-web",))
    client.post("/v1/volumes", files={"file": ("s.nii.gz", phantom_file.read_bytes())})
    of_upload = json.loads(told.read_text())
    assert "secret" not in of_upload.values()
    assert "HOME" not in of_upload
    source = {"source": "dicomweb+http://archive:8042/dicom-web/studies/1.2/series/1.3"}
    client.post("/v1/volumes", json=source)
    of_archive = json.loads(told.read_text())
    assert {name for name, value in of_archive.items() if value == "secret"} == {
        *("SLICESIGHT_ARCHIVE_TOKEN", "NETRC", "HTTPS_PROXY"),
    }


def test_serve_asks_the_archive_through_the_proxy_it_is_told_of(make_client, monkeypatch):
    """As the guide to archives says."""
    asked = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as proxy:

        def answer():
            while True:
                connection, _ = proxy.accept()
                if b"http://archive.invalid" in connection.recv(1000):
                    asked.set()
                connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                connection.close()

        threading.Thread(target=answer, daemon=True).start()
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        client = make_client(archives=("http://archive.invalid/dicom-web",), fetch_timeout_s=30)
        source = {"source": "dicomweb+http://archive.invalid/dicom-web/studies/1.2/series/1.3"}
        assert client.post("/v1/volumes", json=source).status_code == 502
    assert asked.is_set()


def test_a_decoder_that_never_ends_is_stopped_by_its_time_at_work(tmp_path):
    code = (
        "from slicesight.serving.sandbox import *\nlimit_resources(memory_bytes=1<<34, cpu_seconds=1, file_bytes=1)\n"
    )
    done = subprocess.run([sys.executable, "-c", f"{code}while True: pass"], timeout=120, env={**os.environ})
    assert done.returncode != 0
