import itertools
import json
import math
from functools import partial

import nibabel as nib
import numpy as np
import pytest
import torch

from slicesight.errors import InputError, ManifestError, ModelError
from slicesight.evaluation.scan_scores import run_segmentation
from slicesight.inference.segmenting import segment_volume
from slicesight.io.loading import read_volume
from slicesight.models.encoders3d.backbone import BackboneSpec
from slicesight.models.encoders3d.backbones import build_backbone, load_backbone, save_backbone, start_backbone
from slicesight.models.med3dinsight import InsightConfig, Segmenter
from slicesight.models.med3dinsight.preparation import Preparation
from slicesight.reports.overlays import draw_scored_scan
from slicesight.settings import build_settings
from slicesight.training import fitting
from slicesight.training.fitting import FitSettings, rate_share
from slicesight.training.segmentation import SegmentRecipe, read_segment_recipe


def make_recipe(balls, folder, settings, **changes):
    content = {"name": "balls", "data": str(balls), "output_dir": str(folder), **settings, **changes}
    content["training"] = {**settings["training"], **changes.get("training", {})}
    return build_settings(SegmentRecipe, content, where="recipe")


@pytest.fixture(scope="module")
def trained(balls, segment_settings, tmp_path_factory):
    """A finished run, its scores and its folder."""
    folder = tmp_path_factory.mktemp("run") / "segment"
    draw = partial(draw_scored_scan, folder, "balls")
    return run_segmentation(make_recipe(balls, folder, segment_settings), draw=draw), folder


def test_it_learns_to_outline_balls_it_never_saw(trained):
    scores, _ = trained
    assert {score.split for score in scores} == {"val", "test"}
    assert all(score.dice > 0.7 for score in scores), scores
    assert all(score.hd95_mm < 6 for score in scores)
    large = scores[-1]
    assert large.volume_ml == pytest.approx(large.true_volume_ml, rel=0.2)


def test_the_folder_holds_model_recipe_log_scores_masks_and_overlays(trained, balls):
    scores, folder = trained
    config = json.loads((folder / "config.json").read_text())
    assert config["labels"] == {"label 1": 1}
    assert json.loads((folder / "recipe.json").read_text())["recipe"]["training"]["steps"] == 40
    steps = [json.loads(line)["step"] for line in (folder / "log.jsonl").read_text().splitlines()]
    assert steps == list(range(5, 45, 5))
    written = json.loads((folder / "scores.json").read_text())
    assert [scan["dice"] for scan in written["scans"]] == [score.dice for score in scores]
    assert {row["split"] for row in written["summary"]} == {"val", "test"}
    assert len(list((folder / "overlays").glob("*.png"))) == 2
    assert not (folder / "checkpoints").exists()
    (mask,) = (folder / "masks").glob("*scan7.nii.gz")
    found, true = nib.load(mask), nib.load(balls.parent / "scan7_mask.nii.gz")
    assert np.array_equal(found.affine, true.affine)
    a, b = np.asarray(found.dataobj) > 0, np.asarray(true.dataobj) > 0
    assert 2 * (a & b).sum() / (a.sum() + b.sum()) == pytest.approx(scores[-1].dice)


def test_a_finished_run_is_scored_again_and_not_trained_again(trained, balls, segment_settings, monkeypatch):
    scores, folder = trained
    monkeypatch.setattr(fitting, "fit", None)
    monkeypatch.setattr("slicesight.training.fine_tuning.fit", None)
    again = run_segmentation(make_recipe(balls, folder, segment_settings, score_splits=["test"]))
    assert again == [score for score in scores if score.split == "test"]
    with pytest.raises(InputError, match="holds a finished run with other settings or data"):
        run_segmentation(make_recipe(balls, folder, segment_settings, seed=5))


class StoppedError(Exception):
    pass


def test_a_run_that_was_stopped_goes_on_to_the_same_weights(balls, segment_settings, tmp_path):
    settings = {**segment_settings, "augmentation": {"flip_axes": [2], "noise": 0.1}, "score_splits": ["val"]}
    changes = {"training": {"steps": 6, "checkpoint_every": 2, "log_every": 1}}
    straight = make_recipe(balls, tmp_path / "straight", settings, **changes)
    run_segmentation(straight)

    def stop_at_five(doing, done, total):
        if doing == "training" and done == 5:
            raise StoppedError

    halting = make_recipe(balls, tmp_path / "halting", settings, **changes)
    with pytest.raises(StoppedError):
        run_segmentation(halting, progress=stop_at_five)
    with pytest.raises(InputError, match="holds a run that was stopped; add --resume"):
        run_segmentation(halting)
    with pytest.raises(InputError, match="this run began with settings and data"):
        run_segmentation(make_recipe(balls, tmp_path / "halting", settings, **changes, seed=1), resume=True)
    run_segmentation(halting, resume=True)
    one, two = (Segmenter.from_pretrained(tmp_path / name).state_dict() for name in ("straight", "halting"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    steps = [json.loads(line)["step"] for line in (tmp_path / "halting" / "log.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_fine_tuning_starts_from_the_pretrained_weights_of_all_parts_or_the_encoder(tmp_path, segment_settings):
    spec = BackboneSpec(**segment_settings["backbone"])
    torch.manual_seed(1)
    saved = build_backbone(spec.name, image_size=spec.image_size, **spec.settings)
    save_backbone(saved, tmp_path)
    torch.manual_seed(2)
    both = start_backbone(None, init=tmp_path).state_dict()
    assert all(torch.equal(both[name], tensor) for name, tensor in saved.state_dict().items())
    encoder = start_backbone(spec, init=tmp_path, parts="encoder").state_dict()
    same = {name for name, tensor in saved.state_dict().items() if torch.equal(encoder[name], tensor)}
    assert "net.convInit.conv.weight" in same
    assert "net.up_samples.0.0.conv.weight" not in same
    larger = BackboneSpec(name=spec.name, image_size=(32, 16, 16), settings=spec.settings)
    assert start_backbone(larger, init=tmp_path).spec.image_size == (32, 16, 16)
    with pytest.raises(ModelError, match="holds a segresnet, the recipe asks for a dynunet"):
        start_backbone(BackboneSpec(name="dynunet"), init=tmp_path)
    with pytest.raises(ModelError, match="no backbone is named"):
        start_backbone(None)


def test_a_segmenters_backbone_travels_on(trained):
    _, folder = trained
    segmenter = Segmenter.from_pretrained(folder)
    volumes = torch.rand(1, 1, 16, 16, 16)
    with torch.no_grad():
        assert torch.equal(load_backbone(folder).eval()(volumes), segmenter.backbone(volumes))


class Oracle(Segmenter):
    """Says of every voxel what its grey value says."""

    def forward(self, volumes):
        bright, dark = volumes - 0.5, 0.5 - volumes
        return torch.cat([dark, torch.full_like(dark, -9.0), bright], dim=1) * 20


def test_windows_are_put_together_on_the_scans_own_voxels(tmp_path):
    """A segmenter that only looks at grey values gives back a mask painted in grey, wherever its box lies."""
    labels = np.zeros((24, 40, 36), np.uint8)
    labels[4:14, 10:30, 12:24] = 1
    affine = np.diag([-1.0, 2.0, 1.5, 1.0])
    grey = np.where(labels, 300.0, 10.0).astype(np.float32)
    grey[0, 0, 0] = 400
    nib.save(nib.Nifti1Image(grey, affine), tmp_path / "scan.nii.gz")
    volume = read_volume(tmp_path / "scan.nii.gz")
    labels = {"low": 3, "high": 5}
    fine = Preparation(spacing_mm=(1.5, 2.0, 1.0), window="0,300", crop_foreground=False)
    oracle = Oracle(
        InsightConfig(labels=labels, preparation=fine.to_dict(), overlap=0.5),
        build_backbone("segresnet", image_size=(8, 8, 8), init_filters=8, blocks_down=[1, 1], blocks_up=[1]),
    )
    found = segment_volume(oracle, volume, name="scan")
    assert set(np.unique(found)) == {0, 5}
    truth = volume.voxels > 200
    assert np.array_equal(found == 5, truth)
    half = Preparation(spacing_mm=(3.0, 4.0, 2.0), window="0,300", crop_foreground=True)
    coarse = Oracle(InsightConfig(labels=labels, preparation=half.to_dict(), overlap=0.5), oracle.backbone)
    found = segment_volume(coarse, volume, name="scan") == 5
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.9
    assert found.shape == volume.shape


def test_the_rate_climbs_then_falls_to_nothing():
    settings = FitSettings(steps=100, warmup_share=0.1)
    shares = [rate_share(step, settings) for step in range(101)]
    assert shares[0] == pytest.approx(0.1)
    assert shares[9] == shares[10] == 1.0
    assert all(later <= before for before, later in itertools.pairwise(shares[10:]))
    assert shares[55] == pytest.approx(0.5 * (1 + math.cos(math.pi * 45 / 90)))
    assert shares[100] == pytest.approx(0.0)


def test_the_constant_schedule_stays_and_the_log_holds_means_since_its_last_line(tmp_path):
    assert rate_share(99, FitSettings(steps=100, schedule="constant")) == 1.0

    class Numbers(fitting.Samples):
        def __len__(self):
            return 6

        def __getitem__(self, index):
            return {"x": torch.tensor([float(index)])}

    model = torch.nn.Linear(1, 1)
    settings = FitSettings(steps=6, batch_size=1, log_every=2, optimizer="adam", device="cpu")
    fitting.fit(
        model,
        lambda batch: (model(batch["x"]).square().sum(), {"number": batch["x"].mean()}),
        Numbers(),
        settings,
        seed=0,
        folder=tmp_path,
        run_digest="x",
    )
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["number"] for line in lines] == [0.5, 2.5, 4.5]


def test_convolutions_learn_with_channels_last_and_come_back_as_they_were(tmp_path):
    class Cubes(fitting.Samples):
        def __len__(self):
            return 1

        def __getitem__(self, index):
            return {"x": torch.ones(1, 4, 4, 4)}

    model, seen = torch.nn.Conv3d(3, 2, 3), []

    def loss_of(batch):
        seen.append(model.weight.is_contiguous(memory_format=torch.channels_last_3d))
        return model(batch["x"].expand(-1, 3, -1, -1, -1)).square().mean()

    fitting.fit(
        model,
        loss_of,
        Cubes(),
        FitSettings(steps=1, batch_size=1, device="cpu"),
        seed=0,
        folder=tmp_path,
        run_digest="x",
    )
    assert seen == [True]
    assert model.weight.is_contiguous()


def test_a_loss_that_is_no_number_stops_the_run_in_one_line(balls, segment_settings, tmp_path):
    recipe = make_recipe(balls, tmp_path, segment_settings, training={"learning_rate": 1e30, "max_grad_norm": 1e30})
    with pytest.raises(InputError, match=r"the loss is nan at step \d+; lower training.learning_rate"):
        run_segmentation(recipe)


def test_masks_without_a_single_label_are_refused(balls, segment_settings, tmp_path):
    lines = [json.loads(line) for line in balls.read_text().splitlines()[:2]]
    blank = np.zeros((20, 24, 22), np.uint8)
    for line in lines:
        source = nib.load(balls.parent / line["image"])
        nib.save(source, tmp_path / line["image"])
        nib.save(nib.Nifti1Image(blank, source.affine), tmp_path / line["mask"])
    path = tmp_path / "blank.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ManifestError, match="every training mask is empty"):
        run_segmentation(make_recipe(path, tmp_path / "run", segment_settings))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"preparation": {}}, "spacing_mm is not set"),
        ({"backbone": None}, "no backbone is named"),
        ({"labels": {"a": 1, "b": 1}}, "different whole numbers"),
        ({"labels": {"a": 0}}, "different whole numbers"),
        ({"train_share": 0.0}, "train_share"),
        ({"overlap": 1.0}, "overlap"),
        ({"score_splits": ["tset"]}, "did you mean 'test'"),
        ({"training": {"steps": 0}}, "training.steps"),
        ({"backbon": {}}, "did you mean 'backbone'"),
    ],
)
def test_recipes_that_cannot_work_are_refused_before_anything_is_loaded(balls, segment_settings, changes, words):
    with pytest.raises(InputError, match=words) as caught:
        make_recipe(balls, "nowhere", segment_settings, **changes)
    assert "\n" not in str(caught.value)


def test_a_recipe_of_another_verb_is_refused(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("verb: insight classify\nname: x\n")
    with pytest.raises(InputError, match="no recipe for 'slicesight insight segment'"):
        read_segment_recipe(path)


def test_the_folder_says_what_scans_it_learnt_from(trained):
    _, folder = trained
    about = json.loads((folder / "config.json").read_text())["trained_on"]
    assert about["num_scans"] == 6
    assert about["units"] == ["arbitrary"]
    assert about["spacing_mm"] == [[2.0, 1.0, 1.5]] * 2
    low, high = about["values"]
    assert 50 < low < 90
    assert 200 < high < 260


def test_masks_of_fractions_are_refused_by_that_name_before_anything_is_trained(balls, segment_settings, tmp_path):
    image = nib.load(balls.parent / "scan0_mask.nii.gz")
    nib.save(nib.Nifti1Image(image.get_fdata(dtype=np.float32) * 0.5, image.affine), tmp_path / "soft.nii.gz")
    lines = [json.loads(line) for line in balls.read_text().splitlines()]
    for line in lines:
        line |= {"image": str(balls.parent / line["image"]), "mask": str(tmp_path / "soft.nii.gz")}
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    recipe = make_recipe(tmp_path / "list.jsonl", tmp_path / "run", segment_settings)
    with pytest.raises(InputError, match=r"soft.nii.gz: the mask holds fractions"):
        run_segmentation(recipe)


@pytest.mark.parametrize("shape", [(23, 30, 19), (7, 9, 5), (64, 8, 8)])
def test_labels_brought_back_in_blocks_are_those_of_all_slices_at_once(shape):
    from torch.nn import functional

    from slicesight.inference.segmenting import fullest_values

    logits = torch.randn(4, 11, 8, 9, generator=torch.Generator().manual_seed(0))
    values = (5, 2, 9)
    fine = functional.interpolate(logits[None], size=shape, mode="trilinear", align_corners=False)[0]
    whole = np.array([0, *values])[fine.argmax(dim=0).numpy()]
    blocks = [fullest_values(logits, values, first, shape, min(4, shape[0] - first)) for first in range(0, shape[0], 4)]
    assert np.array_equal(np.concatenate(blocks), whole)


def test_predicting_says_how_far_it_is(trained, balls):
    _, folder = trained
    steps = []
    volume = read_volume(balls.parent / "scan7.nii.gz")
    segmenter = Segmenter.from_pretrained(folder)
    segment_volume(segmenter, volume, name="scan7", progress=lambda *said: steps.append(said))
    for doing in ("segmenting", "bringing labels to the scan's voxels"):
        done, total = zip(*(said[1:] for said in steps if said[0] == doing), strict=True)
        assert done[-1] == total[-1]
        assert list(done) == sorted(set(done))
