"""Every code block of docs/how-to/extend.md, as the files and the entry points of a package beside ours."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest

from slicesight import cli

PAGE = (Path(__file__).parents[1] / "docs" / "how-to" / "extend.md").read_text(encoding="utf-8")
FILES = {
    re.match(r"# (\w+)\.py\n", text)[1]: text
    for text in re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
}
LINES = re.findall(r"^```toml\n\[project\.entry-points\.\"(.*?)\"\]\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """A stranger's package on the path, with the files and the lines of the page."""
    folder = tmp_path / "site"
    facts = folder / "acme-1.0.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    points = (f"[{group}]\n{line.replace(chr(34), '')}" for group, line in LINES)
    (facts / "entry_points.txt").write_text("\n".join(points))
    for name, text in FILES.items():
        (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(folder)
    yield folder
    for name in FILES:
        sys.modules.pop(name, None)


def run(monkeypatch, *arguments: object) -> object:
    monkeypatch.setattr(sys, "argv", ["slicesight", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return stopped.value.code


def test_every_file_has_its_line():
    assert {line.split('"')[1].split(":")[0] for _, line in LINES} == set(FILES)


def test_a_metric_from_another_package_stands_in_sheet_and_table(package, tmp_path, monkeypatch, capsys):
    line = {"id": "1", "task": "open", "topic": "organ", "question": "?", "prediction": "liver", "answer": "the liver!"}
    (tmp_path / "said.jsonl").write_text(json.dumps({**line, "volume": "v"}) + "\n")
    assert not run(monkeypatch, "score", tmp_path / "said.jsonl", "--json", "-")
    sheet = json.loads(capsys.readouterr().out)
    assert sheet["open"]["micro"]["length_ratio"] == 0.5
    assert sheet["open"]["ci95"]["micro"]["length_ratio"] is None, "one scan has no interval"
    assert "shorter text" in sheet["metrics"]["length_ratio"]["definition"]
    assert not run(monkeypatch, "score", tmp_path / "said.jsonl")
    assert "length_ratio" in capsys.readouterr().out


def test_a_report_format_from_another_package_is_written_by_ask(
    package, phantom_file, tiny_model_folder, tmp_path, monkeypatch, capsys
):
    asked = ["ask", phantom_file, "Which phase?", "--model", tiny_model_folder]
    assert not run(monkeypatch, *asked, "--report", f"markdown={tmp_path / 'scan.md'}")
    assert "wrote" in capsys.readouterr().err
    text = (tmp_path / "scan.md").read_text()
    assert "## Which phase?" in text
    assert "research use only" in text.lower()


def test_a_report_format_that_nobody_has_is_refused_before_the_scan_is_read(tmp_path, monkeypatch, capsys):
    assert run(monkeypatch, "ask", tmp_path / "no.nii.gz", "Why?", "--report", f"docx={tmp_path / 'a'}") == 2
    assert "'docx' is unknown; use one of json, html, png" in " ".join(capsys.readouterr().err.split())
    assert run(monkeypatch, "ask", tmp_path / "no.nii.gz", "Why?", "--report", "docx") == 2
    assert "expected FORMAT=FILE" in capsys.readouterr().err


@pytest.mark.skipif(
    importlib.util.find_spec("slicesight.data.dataset") is None, reason="data sources cannot be added from outside yet"
)
def test_a_data_source_from_another_package_is_opened_by_its_name(package, tmp_path):
    from slicesight.data.manifest import Case, write_manifest

    dataset = importlib.import_module("slicesight.data.dataset")
    write_manifest([Case(id="one", volume="one.nii.gz", conversations=())], tmp_path / "ward.jsonl")
    assert [case.id for case in dataset.open_dataset(f"ward:{tmp_path}").cases] == ["one"]


@pytest.mark.skipif(
    importlib.util.find_spec("slicesight.models.encoders3d.backbone") is None,
    reason="backbones cannot be added from outside yet",
)
def test_a_backbone_from_another_package_is_built_by_its_name(package):
    from slicesight.models.encoders3d.backbones import build_backbone

    assert type(build_backbone("acme", image_size=(16, 16, 16))).__name__ == "AcmeBackbone"


@pytest.mark.skipif(
    importlib.util.find_spec("slicesight.models.med2e3.slice_scorer") is None,
    reason="ways to weigh slices cannot be added from outside yet",
)
def test_a_way_to_weigh_slices_from_another_package_is_a_models_option(package):
    import torch

    from slicesight.models.med2e3 import VolumeFeatures
    from slicesight.models.med2e3.configuration import Med2E3Config

    assert Med2E3Config(aggregation="middle").aggregation == "middle"
    features = VolumeFeatures(tokens_3d_VKPD=None, tokens_2d_VNLD=torch.zeros(1, 5, 1, 1))
    weigh = importlib.import_module("acme_aggregation").middle_first
    scores, _ = weigh(None, features, torch.zeros(1, 1, dtype=torch.long), None)
    assert scores.argmax() == 2
    assert abs(float(scores.sum()) - 1) < 1e-6
