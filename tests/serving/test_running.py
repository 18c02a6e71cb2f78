"""`slicesight serve` as it is typed: it says where it listens, survives nothing it should not, and leaves no scan."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading

import httpx
import pytest

from http_questions import question
from slicesight.errors import InputError
from slicesight.serving.options import ServeOptions
from slicesight.serving.running import run_server


def start(model, folder):
    """The verb in a process of its own -> (process, its address)."""
    command = [
        sys.executable,
        "-m",
        "slicesight.cli",
        "serve",
        "--port",
        "0",
        "--model",
        str(model),
        "--folder",
        str(folder),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    lines = []
    for line in process.stderr:
        lines.append(line)
        if found := re.search(r"open (http://\S+?)/ ", line):
            rest = threading.Thread(target=lambda: lines.extend(process.stderr))
            rest.start()
            return process, found[1], lines, rest
    raise AssertionError("".join(lines))


@pytest.mark.slow
def test_after_kill_9_the_next_start_leaves_no_scan_and_ctrl_c_ends_it_politely(
    tiny_model_folder, phantom_file, tmp_path
):
    process, address, lines, rest = start(tiny_model_folder, tmp_path)
    assert any("research use only" in line for line in lines)
    assert any("synthetic CT only" in line for line in lines)
    found = httpx.post(f"{address}/v1/volumes", files={"file": ("s.nii.gz", phantom_file.read_bytes())}).json()
    assert httpx.post(f"{address}/v1/chat/completions", json=question(found["id"])).status_code == 200
    process.send_signal(signal.SIGKILL)
    process.wait()
    rest.join()
    assert list(tmp_path.rglob("image.nii.gz")), "killed before it could tidy"
    again, address, lines, rest = start(tiny_model_folder, tmp_path)
    assert not list(tmp_path.rglob("image.nii.gz"))
    assert httpx.get(f"{address}/v1/volumes/{found['id']}").status_code == 404
    httpx.post(f"{address}/v1/volumes", files={"file": ("s.nii.gz", phantom_file.read_bytes())}).raise_for_status()
    again.send_signal(signal.SIGINT)
    assert again.wait(120) == 0
    rest.join()
    assert "no scan is left" in lines[-1]
    assert not list(tmp_path.rglob("image.nii.gz"))
    assert again.stdout.read() == ""


def test_a_port_that_is_taken_is_one_line_before_the_model_is_loaded():
    from slicesight.serving.running import listen

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"--port {port}.*choose another"):
            listen(ServeOptions(port=port))


def test_the_folder_of_scans_is_below_the_one_that_was_named(tmp_path):
    from slicesight.serving.scan_store import ScanStore

    tmp_path.chmod(0o755)
    scan_store = ScanStore(folder=tmp_path)
    assert scan_store.run.parent == tmp_path / f"slicesight-serve-{os.getuid()}"
    assert tmp_path.stat().st_mode & 0o777 == 0o755, "the operator's folder stays as it was"
    scan_store.close()


def test_the_address_that_is_said_takes_connections_already(monkeypatch, capsys):
    """Whoever opens it on reading the line must not be refused because the server is still getting ready."""
    reached = []

    async def serve(self, sockets):
        assert "open http://127.0.0.1:" in capsys.readouterr().err
        with socket.create_connection(sockets[0].getsockname(), timeout=5):
            reached.append(True)

    monkeypatch.setattr("uvicorn.Server.serve", serve)
    run_server(ServeOptions(model="phantom-tiny", port=0))
    assert reached
