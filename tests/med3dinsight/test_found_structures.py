"""Scans unlike those a segmenter was calibrated on are marked or refused; and what predict takes and writes."""

import json
import shlex
import sys

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch

from json_checks import documented
from slicesight import cli
from slicesight.inference.calibration.calibration import Calibration
from slicesight.inference.calibration.storage import write_calibration
from slicesight.inference.calibration.strangeness import fit_gauge
from slicesight.inference.found_structures import REFUSED_ABOVE, judge_found, measure_found, read_gauge
from slicesight.inference.scan_prediction import load_segmenter, sidecar_of
from slicesight.inference.segmenting import segment_scan
from slicesight.io.loading import read_volume
from slicesight.io.writers import write_dicom
from slicesight.models.encoders3d.backbones import build_backbone
from slicesight.models.folder import write_model_folder
from slicesight.models.med3dinsight import InsightConfig, Segmenter
from slicesight.models.med3dinsight.preparation import Preparation
from slicesight.models.med3dinsight.trained_on import scan_facts, summarise_scans


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """30 small CTs with a bright ball each, and three strangers: two balls of thrice the size, noise, and nothing."""
    folder, rng = tmp_path_factory.mktemp("scans"), np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(16)] * 3, indexing="ij"), -1)

    def write(name, ball):
        voxels = np.where(ball, 400.0, -900.0) + rng.normal(0, 20, (16, 16, 16))
        nib.save(nib.Nifti1Image(voxels.astype(np.int16), np.diag([-4.0, -4.0, 4.0, 1.0])), folder / f"{name}.nii.gz")

    for number in range(30):
        centre, radius = np.array([8, 8, 8]) + rng.uniform(-1, 1, 3), rng.uniform(3, 4)
        write(f"usual{number}", np.linalg.norm(grid - centre, axis=-1) < radius)
    write("large", np.linalg.norm(grid - (3, 8, 12), axis=-1) < 9)
    write("empty", np.zeros((16, 16, 16), bool))
    return folder


@pytest.fixture(scope="module")
def model(scans, tmp_path_factory):
    """A segmenter's folder in half precision that calls bright voxels the ball, with the gauge of the usual scans."""
    torch.manual_seed(0)
    how = Preparation(spacing_mm=(4.0, 4.0, 4.0), window="-300,500")
    backbone = build_backbone("segresnet", image_size=(16, 16, 16), init_filters=8, blocks_down=[1, 1], blocks_up=[1])
    config = InsightConfig(labels={"ball": 4}, preparation=how.to_dict(), outputs="sigmoid")
    segmenter = Segmenter(config, backbone)
    recipe = torch.optim.Adam(segmenter.parameters(), lr=0.02)
    volumes = [read_volume(scans / f"usual{number}.nii.gz") for number in range(30)]
    config.trained_on = summarise_scans([scan_facts(volume) for volume in volumes])
    cubes = torch.stack([torch.from_numpy(((v.voxels + 300) / 800).clip(0, 1))[None] for v in volumes[:4]])
    for _ in range(25):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(segmenter(cubes)[:, 1:], (cubes > 0.5).float())
        recipe.zero_grad()
        loss.backward()
        recipe.step()
    assert loss < 0.2
    folder = tmp_path_factory.mktemp("models") / "ball"
    write_model_folder(folder, kind="segmenter", facts=segmenter.facts(), model=segmenter.half())
    segmenter = load_segmenter(folder)
    measured = []
    for volume in volumes:
        found = segment_scan(segmenter, volume, name="scan", keeps_memory=True)
        measured.append(measure_found(found, segmenter, volume))
    gauge = fit_gauge(measured, patients=[f"p{n}" for n in range(30)], held_out=[n % 2 == 0 for n in range(30)])
    write_calibration(Calibration(curves={}, scans=gauge), folder)
    return folder


@pytest.fixture
def run(monkeypatch, capsys):
    def runner(line):
        monkeypatch.setattr(sys, "argv", shlex.split(line))
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        captured = capsys.readouterr()
        return stopped.value.code or 0, captured.out, captured.err

    return runner


def judge(model, path):
    segmenter, gauge, volume = load_segmenter(model), read_gauge(model), read_volume(path)
    found = segment_scan(segmenter, volume, name="scan", keeps_memory=True)
    return judge_found(found, segmenter, volume, gauge)


def test_usual_scans_pass_and_a_stranger_is_told(model, scans):
    assert not any(judge(model, scans / f"usual{number}.nii.gz").is_strange for number in range(4))
    stranger = judge(model, scans / "large.nii.gz")
    assert stranger.is_strange
    assert stranger.score > 1
    assert stranger.is_refused == (stranger.score > REFUSED_ABOVE)


def test_a_scan_in_which_nothing_was_found_is_refused_whatever_else(model, scans):
    nothing = judge(model, scans / "empty.nii.gz")
    assert (nothing.is_refused, nothing.reason) == (True, "none of the structures was found in it")
    assert nothing.to_dict()["score"] is None


def test_weights_in_half_precision_work_in_single(model):
    segmenter = load_segmenter(model)
    assert {parameter.dtype for parameter in segmenter.parameters()} == {torch.float32}


def test_a_refused_scan_leaves_nothing_and_goes_on_where_that_is_wanted(run, model, scans, tmp_path):
    line = f"slicesight insight predict {scans}/empty.nii.gz --model {model} --out {tmp_path}/m.nii.gz --json -"
    code, out, err = run(f"{line} --unit HU")
    assert code == 2
    assert not out
    assert not list(tmp_path.iterdir())
    assert "this scan is unlike those the model learnt from: none of the structures was found in it" in err
    assert len([part for part in err.splitlines() if "unlike" in part]) == 1
    code, out, _ = run(f"{line} --unit HU --any-kind")
    assert code == 0
    found = json.loads(out)
    assert found["strangeness"]["is_strange"]
    assert found["warnings"][-1].endswith("those the model learnt from: none of the structures was found in it")
    assert (tmp_path / "m.nii.gz").exists()


def test_the_json_beside_the_mask_names_its_labels(run, model, scans, tmp_path):
    scan, mask = scans / "usual3.nii.gz", tmp_path / "m.nii.gz"
    code, out, err = run(f"slicesight insight predict {scan} --model {model} --out {mask} --unit HU")
    assert code == 0, err
    assert f"{tmp_path}/m.json" in err.replace("\n", "")
    (ball,) = documented("insight-predict", sidecar_of(mask).read_text())["structures"]
    stored = np.asarray(nib.load(mask).dataobj)
    assert set(np.unique(stored)) == {0, ball["value"]}
    assert ball["name"] == "ball"
    assert ball["volume_ml"] == pytest.approx((stored == 4).sum() * 0.064, abs=1e-3)
    assert 0.5 < ball["mean_probability"] <= 1
    assert "ball: " in out


def test_a_dicom_series_gets_an_rtstruct_and_a_nifti_is_refused_one(run, model, scans, tmp_path):
    import dataclasses

    volume = read_volume(scans / "usual1.nii.gz", unit="HU")
    write_dicom(dataclasses.replace(volume, modality="CT"), tmp_path / "series")
    code, _, err = run(
        f"slicesight insight predict {tmp_path}/series --model {model} --rtstruct {tmp_path}/rt.dcm --any-kind"
    )
    assert code == 0, err
    (roi,) = pydicom.dcmread(tmp_path / "rt.dcm").StructureSetROISequence
    assert roi.ROIName == "ball"
    code, _, err = run(
        f"slicesight insight predict {scans}/usual1.nii.gz --model {model} --rtstruct {tmp_path}/no.dcm --unit HU"
    )
    assert code == 2
    assert "a DICOM RTSTRUCT refers to DICOM images; this scan is no DICOM" in err
    assert not (tmp_path / "no.dcm").exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [("headneck-smal", "no such folder or model"), ("phantom-tiny", "config.json is not of this family")],
)
def test_a_model_that_is_none_is_one_line(run, scans, tmp_path, name, words):
    code, _, err = run(
        f"slicesight insight predict {scans}/usual1.nii.gz --model {name} --out {tmp_path}/m.nii.gz --unit HU"
    )
    assert code == 2
    assert words in " ".join(err.split())
    assert not list(tmp_path.iterdir())
