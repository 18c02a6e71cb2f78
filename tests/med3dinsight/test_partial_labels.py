"""Label maps in each of which only some structures were drawn: the list, the loss, the crops, the scores."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from slicesight.errors import InputError, ManifestError
from slicesight.evaluation.scan_scores import case_scores, run_segmentation
from slicesight.models.encoders3d.backbones import build_backbone
from slicesight.models.med3dinsight import InsightConfig, Segmenter
from slicesight.models.med3dinsight.preparation import Preparation, prepare_mask
from slicesight.models.med3dinsight.sides import mirrored_classes
from slicesight.settings import build_settings
from slicesight.training.partial_labels import partial_label_loss
from slicesight.training.scan_list import ScanDataset, read_cases
from slicesight.training.scan_samples import DRAWN, IMAGE, MASK, CropSamples, SpatialAugmentation, balanced_crop
from slicesight.training.segmentation import SegmentRecipe, mirroring, train_segmenter

NAMES = ("brainstem", "left parotid", "right parotid")
drawn_flags = st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=2, max_size=2)


def make_batch(seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 3, 4, 5, 6, generator=generator)
    return logits, torch.randint(0, 4, (2, 1, 4, 5, 6), generator=generator)


# --- the loss --------------------------------------------------------------------------------------------------------


@hypothesis_settings(max_examples=40, deadline=None)
@given(flags=drawn_flags, seed=st.integers(0, 1000), change=st.sampled_from([-30.0, 5.0, 40.0]))
def test_what_is_said_of_a_structure_nobody_drew_changes_neither_loss_nor_gradient(flags, seed, change):
    logits, classes = make_batch(seed)
    drawn = torch.tensor(flags)
    changed = torch.where(drawn[:, :, None, None, None], logits, logits * -1 + change)
    losses, gradients = [], []
    for values in (logits, changed):
        values = values.clone().requires_grad_()
        loss = partial_label_loss(values, classes, drawn)
        loss.backward()
        losses.append(loss.detach())
        gradients.append(values.grad)
    assert torch.equal(*losses)
    assert torch.equal(*gradients)
    assert not gradients[0][~drawn].any()
    for crop, structure in drawn.nonzero().tolist():
        assert gradients[0][crop, structure].any()


@hypothesis_settings(max_examples=30, deadline=None)
@given(flags=drawn_flags, seed=st.integers(0, 1000))
def test_a_voxel_whose_class_nobody_drew_counts_as_not_the_others(flags, seed):
    """The truth of an undrawn structure changes nothing either: to the drawn ones it is background in any case."""
    logits, classes = make_batch(seed)
    drawn = torch.tensor(flags)
    known = torch.cat([torch.ones(2, 1, dtype=torch.bool), drawn], dim=1)
    hidden = torch.where(torch.stack([k[c] for k, c in zip(known, classes, strict=True)]), classes, 0)
    assert torch.equal(partial_label_loss(logits, classes, drawn), partial_label_loss(logits, hidden, drawn))


def test_with_everything_drawn_it_is_monais_dice_and_the_cross_entropy_over_the_structures_voxels():
    from monai.losses import DiceLoss

    logits, classes = make_batch(3)
    truth = torch.cat([classes == number for number in (1, 2, 3)], dim=1).float()
    dice = DiceLoss(sigmoid=True, batch=True, smooth_nr=1.0, smooth_dr=1.0)(logits, truth)
    entropies = torch.nn.functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    entropy = (entropies.sum(dim=(0, 2, 3, 4)) / truth.sum(dim=(0, 2, 3, 4))).mean()
    found = partial_label_loss(logits, classes, torch.ones(2, 3, dtype=torch.bool))
    assert found == pytest.approx(float(dice + entropy), rel=1e-5)


def test_a_batch_in_which_nothing_was_drawn_costs_nothing_and_can_be_learnt_from():
    logits, classes = make_batch(0)
    logits.requires_grad_()
    loss = partial_label_loss(logits, classes, torch.zeros(2, 3, dtype=torch.bool))
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()


# --- sides -----------------------------------------------------------------------------------------------------------


def test_left_and_right_change_places_in_a_mirror_image_however_they_are_written():
    assert mirrored_classes(NAMES) == (0, 1, 3, 2)
    assert mirrored_classes(["kidney_left", "liver", "kidney_right"]) == (0, 3, 2, 1)
    assert mirrored_classes(["Left Kidney", "cleft", "right kidney"]) == (0, 3, 2, 1)


def test_a_side_without_its_counterpart_is_refused_where_scans_are_mirrored():
    with pytest.raises(InputError, match="'left lung' has no counterpart 'right lung' among the labels"):
        mirrored_classes(["left lung", "liver"])
    common = {"name": "a", "data": "a", "output_dir": "a", "preparation": {"spacing_mm": [2.0, 2.0, 2.0]}}
    content = {**common, "backbone": {"name": "segresnet"}, "labels": {"left lung": 1}}
    build_settings(SegmentRecipe, content, where="recipe")
    for setting in ({"augmentation": {"flip_axes": [2]}}, {"mirror_average": True}):
        with pytest.raises(InputError, match="has no counterpart"):
            build_settings(SegmentRecipe, {**content, **setting}, where="recipe")


def test_sides_take_over_the_mirroring_and_leave_the_other_axes():
    sides, rest = mirroring(NAMES, SpatialAugmentation(flip_axes=(0, 2)))
    assert (sides, rest.flip_axes) == ((0, 1, 3, 2), (0,))
    same = SpatialAugmentation(flip_axes=(0, 2))
    assert mirroring(["tumour"], same) == ((), same)
    assert mirroring(NAMES, SpatialAugmentation())[0] == ()


# --- lists and crops -------------------------------------------------------------------------------------------------


@pytest.fixture
def sided(tmp_path):
    """Three scans whose grey value is 40 per class; the second numbers its labels differently, the third lacks two."""
    rng = np.random.default_rng(0)
    lines = []
    for number, drawn in enumerate((None, {"left parotid": 9, "brainstem": 4}, ["right parotid"])):
        classes = np.zeros((24, 20, 16), np.uint8)  # i grows to the left
        classes[15:20, 6:14, 4:10], classes[3:8, 6:14, 4:10], classes[10:13, 6:14, 10:14] = 2, 3, 1
        grey = classes * 40.0 + rng.normal(60, 1, classes.shape)
        stored = classes.copy()
        if number == 1:
            stored[classes == 2], stored[classes == 1], stored[classes == 3] = 9, 4, 0
        affine = np.diag([-2.0, -2.0, 2.0, 1.0])
        nib.save(nib.Nifti1Image(grey.astype(np.float32), affine), tmp_path / f"s{number}.nii.gz")
        nib.save(nib.Nifti1Image(stored, affine), tmp_path / f"m{number}.nii.gz")
        line = {"image": f"s{number}.nii.gz", "mask": f"m{number}.nii.gz", "patient": number}
        lines.append(line if drawn is None else {**line, "drawn": drawn})
    path = tmp_path / "list.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


LABELS = {"brainstem": 1, "left parotid": 2, "right parotid": 3}


def test_every_mask_is_read_with_its_own_numbers_and_only_what_was_drawn(sided):
    cases = read_cases(sided, needs="mask")
    assert [case.values(LABELS) for case in cases] == [(1, 2, 3), (4, 9, None), (None, None, 3)]
    scans = ScanDataset(sided.parent / "p", Preparation(spacing_mm=(2.0, 2.0, 2.0)), image_size=(8,) * 3, labels=LABELS)
    found = []
    for case in cases:
        scans.prepare(case)
        found.append(scans.load(case)[1])
    assert np.array_equal(found[1], np.where(found[0] == 3, 0, found[0]))
    assert np.array_equal(found[2], np.where(found[0] == 3, 3, 0))


def test_numbers_that_nobody_named_are_listed_and_those_left_out_are_not(sided, caplog):
    how = Preparation(spacing_mm=(2.0, 2.0, 2.0))
    ScanDataset(sided.parent / "p", how, image_size=(8,) * 3, labels=LABELS).prepare_all(read_cases(sided))
    assert not caplog.records
    some = {"brainstem": 1, "left parotid": 2}
    cases = read_cases(sided)[:1]
    ScanDataset(sided.parent / "q", how, image_size=(8,) * 3, labels=some).prepare_all(cases)
    (said,) = [record.getMessage() for record in caplog.records]
    assert said == "1 of the masks hold numbers that labels does not name, taken for background: 3 in m0.nii.gz"


def test_paths_start_from_the_root_where_one_is_named(sided, tmp_path):
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (moved / "list.jsonl").write_text(sided.read_text())
    with pytest.raises(ManifestError, match=f"paths are relative to {moved}"):
        read_cases(moved / "list.jsonl")
    assert read_cases(moved / "list.jsonl", root=sided.parent)[0].image == sided.parent / "s0.nii.gz"


def test_a_class_none_is_no_value_of_a_mask():
    labels = np.array([[[1, 2, 3, 0]]])
    assert prepare_mask(labels, box=((0, 1), (0, 1), (0, 4)), size=(1, 1, 4), values=[2, None, 3]).tolist() == [
        [[0, 1, 3, 0]]
    ]


@pytest.mark.parametrize(
    ("drawn", "words"),
    [
        (["parotid"], "line 1: drawn names 'parotid', which the recipe's labels lack; did you mean"),
        ({"brainstem": 2, "left parotid": 2}, "line 1: drawn gives two structures one number"),
        ({"brainstem": 0}, "list.jsonl line 1: drawn: .*expected names of structures"),
        ("brainstem", "list.jsonl line 1: drawn: .*expected names of structures"),
    ],
)
def test_a_wrong_drawn_is_one_line_that_names_it(sided, tmp_path, drawn, words):
    first = json.loads(sided.read_text().splitlines()[0])
    sided.write_text(json.dumps({**first, "drawn": drawn}) + "\n")
    with pytest.raises(InputError, match=words):
        train_segmenter(make_recipe(sided, tmp_path / "run"))


def make_recipe(data, folder, **changes):
    content = {
        "name": "sided",
        "data": str(data),
        "output_dir": str(folder),
        "labels": LABELS,
        "outputs": "sigmoid",
        "preparation": {"spacing_mm": [2.0, 2.0, 2.0], "window": "0,255"},
        "crops": "structures",
        "backbone": {
            "name": "segresnet",
            "image_size": [16, 16, 16],
            "settings": {"init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]},
        },
        "training": {"steps": 80, "batch_size": 2, "learning_rate": 0.01, "log_every": 5, "device": "cpu"},
        "score_splits": ["train"],
        **changes,
    }
    return build_settings(SegmentRecipe, content, where="recipe")


def test_a_softmax_is_refused_where_not_everything_was_drawn(sided, tmp_path):
    with pytest.raises(InputError, match=r"list.jsonl line 2: not every structure was drawn.*set outputs: sigmoid"):
        train_segmenter(make_recipe(sided, tmp_path / "run", outputs="softmax"))
    with pytest.raises(InputError, match=r"line 2: says which structures were drawn; name all of them in labels"):
        train_segmenter(make_recipe(sided, tmp_path / "run", labels=None))
    assert not (tmp_path / "run" / "prepared").exists()


def test_a_mirrored_crop_exchanges_the_sides_in_its_labels_and_in_what_was_drawn(sided):
    cases = read_cases(sided, needs="mask")
    scans = ScanDataset(
        sided.parent / "p", Preparation(spacing_mm=(2.0, 2.0, 2.0), window="0,255"), image_size=(16,) * 3, labels=LABELS
    )
    scans.prepare_all(cases)
    crops = CropSamples(
        scans,
        cases,
        size=(16, 20, 24),
        augmentation=SpatialAugmentation(),
        seed=2,
        length=60,
        is_balanced=True,
        sides=mirrored_classes(NAMES),
    )
    seen = set()
    for index in range(60):
        sample = crops[index]
        assert sample[IMAGE].shape == sample[MASK].shape == (1, 16, 20, 24)
        columns = {name: (sample[MASK] == n).nonzero()[:, 3].float().mean() for n, name in enumerate(NAMES, start=1)}
        if sample[DRAWN].all():
            assert columns["right parotid"] < columns["brainstem"] < columns["left parotid"]
            inside = sample[IMAGE][sample[MASK] == 2].mean()
            seen.add(("all", "mirrored" if inside > 0.64 else "as it is"))  # the right one is brighter
        else:
            held = tuple(NAMES[n] for n in range(3) if sample[DRAWN][n])
            assert {NAMES[n - 1] for n in sample[MASK].unique().tolist() if n} <= set(held)
            seen.add(held)
    assert seen == {
        *[("all", "mirrored"), ("all", "as it is"), ("brainstem", "left parotid"), ("brainstem", "right parotid")],
        *[("left parotid",), ("right parotid",)],
    }


def test_balanced_crops_show_a_small_structure_as_often_as_a_large_one_and_stay_inside():
    mask = np.zeros((40, 40, 40), np.uint8)
    mask[:20] = 1
    mask[38, 38, 38] = 2
    rng = np.random.default_rng(0)
    shown = []
    for _ in range(300):
        inside = balanced_crop(mask, (8, 8, 8), rng)
        assert mask[inside].shape == (8, 8, 8)
        shown.append(2 in mask[inside])
    assert 0.25 < np.mean(shown) < 0.5
    assert mask[balanced_crop(mask[:6], (8, 8, 8), rng)][:6].shape[0] >= 6


# --- the run and its scores ------------------------------------------------------------------------------------------


def test_one_network_learns_from_label_maps_with_different_structures(sided, tmp_path):
    scores = run_segmentation(make_recipe(sided, tmp_path / "run"))
    assert [(s.patient, s.structure) for s in scores] == [
        *[("0", name) for name in LABELS],
        *[("1", "brainstem"), ("1", "left parotid"), ("2", "right parotid")],
    ]
    assert all(score.dice > 0.5 for score in scores), scores
    found = Segmenter.from_pretrained(tmp_path / "run")
    assert found.is_independent


def test_the_background_of_independent_structures_is_where_none_is_likely():
    torch.manual_seed(0)
    backbone = build_backbone("segresnet", image_size=(8, 8, 8), init_filters=8, blocks_down=[1, 1], blocks_up=[1])
    segmenter = Segmenter(InsightConfig(labels=LABELS, outputs="sigmoid"), backbone).eval()
    logits = segmenter(torch.rand(1, 1, 8, 8, 8))
    assert logits.shape == (1, 4, 8, 8, 8)
    assert not logits[:, 0].any()
    assert (logits[:, 1:] < 0).float().mean() > 0.9


def test_what_nobody_drew_has_no_score(sided):
    case = read_cases(sided)[1]
    backbone = build_backbone("segresnet", image_size=(8, 8, 8), init_filters=8, blocks_down=[1, 1], blocks_up=[1])
    segmenter = Segmenter(InsightConfig(labels=LABELS, outputs="sigmoid"), backbone)
    true = np.zeros((4, 4, 4), int)
    true[0], true[1] = 4, 9
    found = np.zeros_like(true)
    found[0], found[1], found[2] = 1, 2, 3
    scores = case_scores(case, found, true, segmenter, spacing_mm=(1, 1, 1))
    assert {score.structure: score.dice for score in scores} == {"brainstem": 1.0, "left parotid": 1.0}
