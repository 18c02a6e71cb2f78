"""Every command and every line of Python of docs/how-to/embed.md, on a few coarse phantoms."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

from slicesight import cli

PAGE = (Path(__file__).parents[1] / "docs" / "how-to" / "embed.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"^```sh\n(.*?)^```", PAGE, flags=re.M | re.S) for line in block.splitlines()]
PYTHON = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.M | re.S)
NUM_SCANS = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """phantoms/ as the page has it: coarse, and only a few."""
    from slicesight.data.manifest import write_manifest
    from slicesight.io.writers import write_nifti
    from slicesight.phantoms.folder import phantom_case
    from slicesight.phantoms.rendering import make_phantom

    place = tmp_path_factory.mktemp("embed")
    (place / "phantoms" / "volumes").mkdir(parents=True)
    cases = []
    for index in range(NUM_SCANS):
        phantom = make_phantom(5, index, pixel_mm=(5.0, 6.0))
        volume = f"volumes/phantom_{index:05d}.nii.gz"
        write_nifti(phantom.volume, place / "phantoms" / volume)
        cases.append(phantom_case(phantom, seed=5, index=index, volume=volume))
    write_manifest(cases, place / "phantoms" / "manifest.jsonl")
    return place


def run(monkeypatch, folder, line):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", shlex.split(line))
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return stopped.value.code or 0


@pytest.fixture(scope="module")
def features(folder):
    """What the page's first command writes."""
    with pytest.MonkeyPatch.context() as patch:
        assert run(patch, folder, COMMANDS[0]) == 0
    return folder / "features.parquet"


def test_the_searches_of_the_page_find_the_scan_itself_and_slices(features, folder, monkeypatch, capsys):
    assert run(monkeypatch, folder, COMMANDS[1]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if re.match(r"\s*\d", line)]
    assert len(rows) == 5
    assert rows[0][1:] == ["1.0000", "phantom_5_00000"], "a scan of the table is nearest to its own file"
    assert run(monkeypatch, folder, COMMANDS[2]) == 0
    found = json.loads((folder / "near.json").read_text())
    assert len(found["neighbours"]) == 5
    assert all(one["scan"] != "phantom_5_00001" and len(one["position_mm"]) == 3 for one in found["neighbours"])
    assert found["neighbours"] == sorted(found["neighbours"], key=lambda one: -one["cosine"])


def test_the_python_of_the_page_runs_and_the_probe_is_five_lines(features, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    first, probe = PYTHON
    exec(first, {})
    assert "(192,) (32, 112) (4, 1, 80)" in capsys.readouterr().out
    lines = [line for line in probe.splitlines() if line and not line.startswith(("import", "from", "table", "phase"))]
    assert len(lines[:-1]) == 5, "as the heading says, what reads the files and prints left out"
    exec(probe, {})
    assert re.fullmatch(r"\d\.\d\d right, the commonest phase alone \d\.\d\d\n", capsys.readouterr().out)


def test_the_probe_finds_what_the_vectors_say(tmp_path, monkeypatch):
    """The page's own lines on vectors that hold the phase, and on vectors that do not."""
    from slicesight.inference.embedding import Embedding
    from slicesight.inference.embedding_table import ScanName, TableFacts, TableWriter

    rng, names = np.random.default_rng(0), ["arterial phase", "delayed phase", "non-contrast"]
    phases = rng.choice(names, 60).tolist()
    cases = [
        {"id": f"s{n}", "volume": "x", "conversations": [], "truth": {"phase": phase}} for n, phase in enumerate(phases)
    ]
    (tmp_path / "phantoms").mkdir()
    (tmp_path / "phantoms" / "manifest.jsonl").write_text("".join(json.dumps(case) + "\n" for case in cases))
    monkeypatch.chdir(tmp_path)
    shares = {}
    for holds in (True, False):
        writer = TableWriter(Path("features.parquet"), TableFacts(model="m", source="m", digest="d", space="encoder"))
        for number, phase in enumerate(phases):
            volume = rng.normal(size=5) + (4 * np.eye(5)[names.index(phase)] if holds else 0)
            writer.add(
                ScanName(scan=f"s{number}", stamp=""),
                Embedding(volume=volume.astype(np.float32), slices=None, depth_bins=None, slice_places=(), receipt={},
                          model="m", space="encoder"),
            )  # fmt: skip
        writer.finish()
        names_of = {}
        exec(PYTHON[1], names_of)
        shares[holds] = names_of["right"].mean()
    assert shares[True] > 0.9
    assert shares[False] < 0.7
