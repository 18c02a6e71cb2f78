"""The files in deploy/ are understood by the programs they are for, and by our own command line."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from slicesight import cli

REPOSITORY = Path(__file__).parents[2]
DEPLOY = REPOSITORY / "deploy"
GUIDE = (REPOSITORY / "docs/how-to/deploy.md").read_text(encoding="utf-8")


def started_by(words, monkeypatch, tmp_path):
    """The options that `slicesight serve WORDS` starts with."""
    started = []
    token = tmp_path / "token"
    token.write_text("0123456789abcdef0123456789abcdef\n")
    monkeypatch.setattr("slicesight.serving.running.run_server", started.append)
    words = [re.sub(r"(\$\{CREDENTIALS_DIRECTORY\}|/run/secrets)/token", str(token), word) for word in words]
    monkeypatch.setattr(sys, "argv", ["slicesight", *words])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert not stopped.value.code
    return started[0]


def test_the_units_command_is_one_of_ours(monkeypatch, tmp_path):
    unit = (DEPLOY / "slicesight.service").read_text().replace("\\\n", " ")
    command = re.search(r"^ExecStart=(.*)$", unit, flags=re.MULTILINE)[1]
    options = started_by(shlex.split(command)[1:], monkeypatch, tmp_path)
    assert options.is_loopback
    assert options.public_url.startswith("https://")
    assert options.grace_s < int(re.search(r"TimeoutStopSec=(\d+)", unit)[1])


def test_the_composition_starts_the_server_as_it_is_meant(monkeypatch, tmp_path):
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    entry = re.search(r"^ENTRYPOINT \[(.*)\]$", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE)[1]
    words = [word.strip(' "') for word in entry.split(",")][1:]
    own = [re.sub(r"\$\{SITE:[^}]*\}", "scans.example.org", word) for word in services["slicesight"]["command"]]
    options = started_by([*words, *own], monkeypatch, tmp_path)
    assert options.archives == ("http://orthanc:8042/dicom-web",)
    assert [name for name, service in services.items() if "ports" in service] == ["caddy"]


@pytest.mark.skipif(shutil.which("nginx") is None, reason="needs nginx")
def test_nginx_takes_its_file(tmp_path):
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=scans"
    files = ["-keyout", tmp_path / "privkey.pem", "-out", tmp_path / "fullchain.pem"]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    text = (DEPLOY / "nginx.conf").read_text().replace("/etc/slicesight/tls", str(tmp_path))
    (tmp_path / "site.conf").write_text(text)
    whole = (
        f"pid {tmp_path}/pid; error_log stderr; events {{}} http {{ access_log off; include {tmp_path}/site.conf; }}"
    )
    (tmp_path / "nginx.conf").write_text(whole)
    done = subprocess.run(["nginx", "-t", "-c", tmp_path / "nginx.conf"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "warn" not in done.stderr


@pytest.mark.skipif(shutil.which("caddy") is None, reason="needs Caddy")
def test_caddy_takes_its_file():
    command = ["caddy", "adapt", "--adapter", "caddyfile", "--config", DEPLOY / "Caddyfile"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd")
def test_systemd_takes_the_unit(tmp_path):
    unit = tmp_path / "slicesight.service"
    unit.write_text((DEPLOY / "slicesight.service").read_text().replace("/opt/slicesight/bin/slicesight", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "slicesight.service" not in done.stderr, done.stderr


def test_the_guide_names_files_that_are_there():
    named = set(re.findall(r"deploy/([\w.]+)", GUIDE)) - {"token.txt"}
    assert named == {"slicesight.service", "nginx.conf", "Caddyfile", "compose.yaml"}
    assert all((DEPLOY / name).is_file() for name in named)
