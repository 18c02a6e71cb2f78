"""Every command and every snippet of docs/how-to/archive.md in its order, against a small archive."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest

from archives import Reply, SmallArchive, small_archive
from slicesight import cli
from slicesight.io.dicomweb.client import TOKEN_VARIABLE
from slicesight.io.writers import write_dicom
from slicesight.reports.dicom_sr.reading import read_report
from slicesight.volumes.volume import Volume

PAGE = (Path(__file__).parents[1] / "docs" / "how-to" / "archive.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(sh|python)\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
NAMED = "https://archive.hospital/dicom-web"


def take(body: bytes) -> Reply:
    """Stored; the answer names the object, as an archive's does."""
    uid = re.search(rb"\x08\x00\x18\x00UI..([0-9.]+)", body)
    assert uid is not None
    told = b'{"00081199": {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": ["%s"]}}]}}' % uid[1]
    return Reply(body=told)


def test_the_page_works_as_written(tmp_path, tiny_model_folder, monkeypatch, capsys):
    voxels = np.full((10, 24, 20), -1000, np.float32)
    voxels[:, 4:-4, 4:-4] = np.random.default_rng(3).integers(-60, 90, (10, 16, 12))
    affine = np.array([[0, 0, 2.0, -40], [0, 2.0, 0, 12], [5.0, 0, 0, 100], [0, 0, 0, 1]])
    scan = Volume(voxels=voxels, affine_lps=affine, spacing_mm=(5.0, 2.0, 2.0), modality="CT", unit="HU")
    write_dicom(scan, tmp_path / "dicom_folder")
    (tmp_path / "token.txt").write_text("of-the-file\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    num_commands = 0
    with small_archive() as archive:
        archive.holds(tmp_path / "dicom_folder")
        archive.stored = take
        for kind, text in BLOCKS:
            here = text.replace(NAMED, archive.url)
            if kind == "python":
                exec(compile(here, "archive.md", "exec"), {})
                assert capsys.readouterr().out.strip()
                continue
            for line in here.splitlines():
                words = shlex.split(line)
                num_commands += 1
                model = ["--model", str(tiny_model_folder)] if words[1] == "ask" else []
                monkeypatch.setattr(sys, "argv", [*words, *model])
                with pytest.raises(SystemExit) as stopped:
                    cli.main()
                printed = capsys.readouterr()
                assert not stopped.value.code, printed.err
                if "--sr" in words:
                    report = read_report("report.dcm")
                    assert [one.question for one in report.answers] == [word for word in words if word.endswith("?")]
                    shutil.copy("report.dcm", "kept.dcm")
                if "--store" in words:
                    assert "stored the report" in printed.err
                    assert authorizations(archive) == {"Bearer of-the-file"}
                archive.asked.clear()
    assert num_commands == 5
    assert len(archive.posted) == 1
    assert pydicom.dcmread("kept.dcm").Modality == "SR"


def authorizations(archive: SmallArchive) -> set[str | None]:
    return {headers.get("Authorization") for _, _, headers in archive.asked}


def test_store_without_an_archive_is_refused_before_any_work(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["slicesight", "ask", str(tmp_path / "nothing"), "Which phase?", "--store"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "--store sends the report to the archive a scan came from" in line
