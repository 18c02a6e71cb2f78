"""The commands segment, classify and predict, as a user types them."""

import json
import re
import shlex
import sys
from pathlib import Path

import highdicom
import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from json_checks import documented
from slicesight import cli
from slicesight.io.loading import read_volume
from slicesight.io.writers import write_dicom
from slicesight.models.encoders3d.backbones import build_backbone
from slicesight.models.folder import write_model_folder
from slicesight.models.med3dinsight import InsightConfig, Segmenter
from slicesight.models.med3dinsight.preparation import Preparation

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a command line -> (exit code, stdout, stderr)."""

    def runner(line):
        monkeypatch.setattr(sys, "argv", shlex.split(line))
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        captured = capsys.readouterr()
        return stopped.value.code or 0, captured.out, captured.err

    return runner


@pytest.fixture(scope="module")
def grey_segmenter(tmp_path_factory):
    """A segmenter's folder that calls every voxel bright: a network known by heart."""
    import torch

    backbone = build_backbone("segresnet", image_size=(16, 16, 16), init_filters=8, blocks_down=[1, 1], blocks_up=[1])
    how = Preparation(spacing_mm=(16.0, 16.0, 16.0), window="-100,300")
    config = InsightConfig(labels={"bright": 2, "never": 7}, preparation=how.to_dict(), overlap=0.25)
    segmenter = Segmenter(config, backbone)
    torch.nn.init.zeros_(segmenter.head.weight)
    segmenter.head.bias.data = torch.tensor([0.0, 1.0, -5.0])
    folder = tmp_path_factory.mktemp("models") / "grey"
    write_model_folder(folder, kind="segmenter", facts=segmenter.facts(), model=segmenter)
    return folder


def test_the_smoke_recipe_trains_and_its_folder_predicts(run, balls, tmp_path):
    code, out, err = run(
        f"slicesight insight segment {RECIPES}/smoke-segment.yaml --set data={balls} --set output_dir={tmp_path}/run "
        "--set training.steps=4"
    )
    assert code == 0, err
    assert [line.split()[0] for line in out.splitlines()] == ["val", "test"]
    assert "Dice" in out
    assert f"--model {tmp_path}/run" in err
    scan = balls.parent / "scan7.nii.gz"
    code, out, err = run(
        f"slicesight insight predict {scan} --model {tmp_path}/run --out {tmp_path}/mask.nii.gz --png {tmp_path}/o.png"
    )
    assert code == 0, err
    assert "label 1: " in out
    found, source = nib.load(tmp_path / "mask.nii.gz"), nib.load(scan)
    assert found.shape == source.shape
    assert np.array_equal(found.affine, source.affine)
    assert min(Image.open(tmp_path / "o.png").size) > 300


def test_a_dicom_series_gets_a_seg_a_nifti_and_findings_of_the_same_voxels(run, grey_segmenter, phantom, tmp_path):
    write_dicom(phantom.volume, tmp_path / "series", orientation="RAI")
    code, out, err = run(
        f"slicesight insight predict {tmp_path}/series --model {grey_segmenter} --out {tmp_path}/mask.nii.gz "
        f"--dicom-seg {tmp_path}/seg.dcm --json -"
    )
    assert code == 0, err
    bright, never = documented("insight-predict", out)["structures"]
    volume = read_volume(tmp_path / "series")
    assert bright["voxels"] == volume.voxels.size
    assert bright["volume_ml"] == pytest.approx(volume.voxels.size * np.prod(volume.spacing_mm) / 1000, rel=1e-4)
    assert bright["source_slices"] == [0, volume.num_source_slices - 1]
    assert (never["voxels"], never["source_slices"]) == (0, None)
    seg = highdicom.seg.segread(tmp_path / "seg.dcm")
    assert int(seg.pixel_array.sum()) == bright["voxels"]
    mask = nib.load(tmp_path / "mask.nii.gz")
    assert set(np.unique(np.asarray(mask.dataobj))) == {2}
    assert f"wrote {tmp_path}/mask.nii.gz, {tmp_path}/seg.dcm, {tmp_path}/mask.json" in err


def test_classify_prints_its_scores_and_its_folder_names_a_scan(run, balls, tmp_path):
    recipe = tmp_path / "classify.yaml"
    recipe.write_text(
        f"verb: insight classify\nname: sizes\ndata: {balls}\noutput_dir: {tmp_path}/run\nmode: probe\n"
        "backbone: {name: cnn3d, image_size: [16, 16, 16],\n"
        "           settings: {widths: [8], blocks: [0], strides: [[2, 2, 2]]}}\n"
    )
    code, out, err = run(f"slicesight insight classify {recipe}")
    assert code == 0, err
    assert "AUC none" in out
    code, out, err = run(f"slicesight insight predict {balls.parent}/scan1.nii.gz --model {tmp_path}/run")
    assert code == 0, err
    assert {line.split(":")[0] for line in out.splitlines()[1:]} == {"large", "small"}
    _, out, _ = run(f"slicesight insight predict {balls.parent}/scan1.nii.gz --model {tmp_path}/run --json -")
    assert set(documented("insight-predict", out)["probabilities"]) == {"large", "small"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("", "nothing to write; pass --out"),
        ("--out {tmp}/mask.png", "ends with .nii or .nii.gz"),
        ("--out {tmp}/none/mask.nii.gz", "does not exist"),
        ("--dicom-seg {tmp}/seg.dcm", "this scan is no DICOM"),
        ("--out {tmp}/mask.nii.gz --unit feet", "unit is 'feet'"),
    ],
)
def test_a_users_mistake_is_one_line_and_nothing_is_written(run, grey_segmenter, balls, tmp_path, options, words):
    scan = balls.parent / "scan0.nii.gz"
    code, out, err = run(f"slicesight insight predict {scan} --model {grey_segmenter} {options.format(tmp=tmp_path)}")
    assert code == 2
    assert not out
    assert words in err
    assert len(err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_predict_says_what_to_do(run, balls, tmp_path):
    from slicesight.models.encoders3d.backbones import save_backbone

    save_backbone(build_backbone("segresnet", image_size=(16, 16, 16), init_filters=8), tmp_path / "pre")
    scan = balls.parent / "scan0.nii.gz"
    code, _, err = run(f"slicesight insight predict {scan} --model {tmp_path}/pre --out {tmp_path}/mask.nii.gz")
    assert code == 2
    assert "fine-tune it: insight segment" in err
    code, _, err = run(f"slicesight insight predict {scan} --model {tmp_path} --out {tmp_path}/mask.nii.gz")
    assert code == 2
    assert "no config.json there" in err


@pytest.mark.shared_data
def test_a_real_series_gets_a_seg_that_lies_on_it(run, grey_segmenter, shared_folder, tmp_path):
    for series in ("CT", "MR_T1"):
        scan = shared_folder / "data" / "sts_dicom" / "STS_002" / series / "image"
        out = tmp_path / f"{series}.dcm"
        code, _, err = run(f"slicesight insight predict {scan} --model {grey_segmenter} --dicom-seg {out} --json -")
        assert code == 0, err
        volume, seg = read_volume(scan), highdicom.seg.segread(out)
        pixels = seg.get_pixels_by_source_instance(
            list(volume.sop_instance_uids), combine_segments=True, ignore_spatial_locations=True
        )
        assert pixels.shape[0] == volume.num_source_slices
        assert (pixels == 1).all()


# --- a scan of another kind than the model learnt from ---------------------------------------------------------------


@pytest.fixture
def learnt_from(grey_segmenter, tmp_path):
    """The grey segmenter's folder with these facts about its training scans."""
    import shutil

    def make(**facts):
        folder = tmp_path / "model"
        shutil.copytree(grey_segmenter, folder, dirs_exist_ok=True)
        config = json.loads((folder / "config.json").read_text())
        about = {"num_scans": 3, "modalities": ["MR"], "units": ["arbitrary"], "values": [0, 900]}
        config["trained_on"] = {**about, "spacing_mm": [[1, 1, 1], [3, 2, 2]], **facts}
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    return make


@pytest.fixture
def ct(tmp_path):
    """A scan in HU."""
    voxels = np.random.default_rng(1).normal(-300, 400, (24, 20, 16)).clip(-1000, 1500).astype(np.int16)
    nib.save(nib.Nifti1Image(voxels, np.diag([1.5, 1.5, 2.0, 1.0])), tmp_path / "ct.nii.gz")
    return tmp_path / "ct.nii.gz"


def test_a_ct_is_refused_by_a_model_that_learnt_from_mr_unless_one_goes_on(run, learnt_from, ct, tmp_path, caplog):
    line = f"slicesight insight predict {ct} --model {learnt_from()} --out {tmp_path}/mask.nii.gz --unit HU --json -"
    code, _, err = run(line)
    assert code == 2
    assert "ct.nii.gz: this scan is CT, the model learnt from MR; take a model of this kind of scan" in err
    assert not (tmp_path / "mask.nii.gz").exists()
    code, out, _ = run(f"{line} --any-kind")
    assert code == 0
    assert json.loads(out)["warnings"][0] == "this scan is CT, the model learnt from MR"
    assert "this scan is CT, the model learnt from MR" in caplog.text
    assert (tmp_path / "mask.nii.gz").exists()


def test_a_unit_that_the_model_never_saw_is_refused_where_no_modality_is_known(run, learnt_from, ct, tmp_path):
    model = learnt_from(modalities=["unknown"])
    code, _, err = run(f"slicesight insight predict {ct} --model {model} --out {tmp_path}/mask.nii.gz --unit HU")
    assert code == 2
    assert "values are in HU units, the model learnt from arbitrary units" in err


def test_a_scan_of_the_models_kind_is_segmented_without_a_word(run, learnt_from, ct, tmp_path, caplog):
    model = learnt_from(modalities=["CT"], units=["HU"], values=[-1000, 1200])
    code, out, _ = run(f"slicesight insight predict {ct} --model {model} --out {tmp_path}/m.nii.gz --unit HU --json -")
    assert code == 0
    assert json.loads(out)["warnings"] == []
    assert not caplog.records


@pytest.mark.parametrize(
    ("facts", "warning"),
    [
        ({"spacing_mm": [[5, 5, 5], [5, 5, 5]]}, "its voxels are 2×1.5×1.5 mm .* in training were 5×5×5 to 5×5×5 mm"),
        ({"values": [-1000, 40000]}, "its values run from .* those in training from -1000 to 4e\\+04"),
        ({"values": [0, 900]}, "its values run from "),
    ],
)
def test_voxel_sizes_and_values_unlike_those_of_training_are_named(
    run, learnt_from, ct, tmp_path, caplog, facts, warning
):
    model = learnt_from(**{"modalities": ["CT"], "units": ["HU"], "values": [-1000, 1200], **facts})
    code, _, _ = run(f"slicesight insight predict {ct} --model {model} --out {tmp_path}/m.nii.gz --unit HU")
    assert code == 0
    assert re.search(warning, caplog.text)


def test_a_folder_of_an_earlier_version_says_that_nothing_was_checked(run, grey_segmenter, ct, tmp_path, caplog):
    code, _, _ = run(f"slicesight insight predict {ct} --model {grey_segmenter} --out {tmp_path}/m.nii.gz")
    assert code == 0
    assert "does not say what scans it learnt from" in caplog.text
