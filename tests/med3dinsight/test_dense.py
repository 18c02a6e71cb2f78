"""Dense teachers: a patch is read where it lies, crops keep their place, and each setting changes what is learnt."""

import json

import numpy as np
import pytest
import torch

from slicesight.errors import InputError, VolumeError
from slicesight.models.med3dinsight import PretrainingModel
from slicesight.models.med3dinsight.dense import DenseHead, dense_loss, read_patches
from slicesight.models.med3dinsight.descriptions import SlicePlace
from slicesight.models.med3dinsight.teachers import CoarsePixels
from slicesight.models.med3dinsight.volume_contrast import draw_view, nt_xent
from slicesight.settings import build_settings
from slicesight.training.pretraining import run_pretraining
from slicesight.training.pretraining_recipe import PretrainRecipe, TripletSettings
from slicesight.training.triplets.crops import cut_crops
from slicesight.training.triplets.dataset import PretrainSteps, open_triplets
from slicesight.training.triplets.dense_tokens import fit_basis, packed, patch_points, shown_patches
from slicesight.training.triplets.making import make_triplets
from slicesight.training.triplets.slices import cut_scan
from slicesight.volumes.volume import PLANES, Volume

CROPS = TripletSettings(
    image_encoder="pixels",
    text_encoder="words",
    text="position",
    size=(8, 16, 16),
    slices_per_plane=8,
    picture_size=40,
    spacing_mm=(2.5, 2.0, 2.0),
    crops=2,
    dense_components=6,
)
SEGRESNET = {"name": "segresnet", "settings": {"init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]}}


@pytest.fixture(scope="module")
def made(balls, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dense") / "triplets"
    make_triplets(balls, folder, CROPS)
    return folder


def recipe_of(folder, output_dir="out", **changes) -> PretrainRecipe:
    content = {
        "name": "t",
        "output_dir": str(output_dir),
        "data": str(folder),
        "backbone": SEGRESNET,
        "psat": {"num_queries": 4, "num_layers": 1, "num_heads": 2, "dropout": 0.0},
        "transport_iterations": 10,
        "mask_share": 0,
        "image_weight": 0,
        "text_weight": 0,
        "reconstruction_weight": 0,
        "slices_per_volume": 2,
        **changes,
        "training": {"batch_size": 8, "steps": 2, "learning_rate": 3e-3, "log_every": 1, **changes.get("training", {})},
    }
    return build_settings(PretrainRecipe, content, where="recipe")


def log_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def slope_volume(shape=(24, 30, 36), spacing=(2.0, 1.5, 1.0), slopes=(0.5, 1.0, 1.6)):
    """A scan whose values say where they lie, another slope along each axis; no two patches are alike."""
    grid = np.meshgrid(*map(np.arange, shape), indexing="ij")
    voxels = 200 + 100 * sum(slope * axis / size for slope, axis, size in zip(slopes, grid, shape, strict=True))
    return Volume(voxels=voxels.astype(np.float32), spacing_mm=spacing, unit="arbitrary")


def test_the_features_of_a_patch_are_read_where_the_picture_shows_it() -> None:
    settings = TripletSettings(
        image_encoder="pixels", size=(24, 30, 36), slices_per_plane=8, picture_size=60, window="0,500",
        crop_foreground=False,
    )  # fmt: skip
    found = cut_scan(slope_volume(), settings)
    cube = torch.from_numpy(found.cube.astype(np.float32))[None, None]
    pictures, grid = found.pictures.astype(np.float32), 10
    patches = pictures.reshape(-1, grid, 6, grid, 6).mean(axis=(2, 4))
    is_whole = (pictures > 0).reshape(-1, grid, 6, grid, 6).all(axis=(2, 4))
    for number, place in enumerate(found.places):
        shape = found.shapes[place.plane]
        points = torch.from_numpy(patch_points(place, shape=shape, side=60, grid=grid))[None, None]
        spread = torch.tensor([[[12 / shape[0], 12 / shape[1]]]])
        plane = torch.tensor([[PLANES.index(place.plane)]])
        read = read_patches(cube, plane, points, spread)[0, 0, :, 0].reshape(grid, grid).numpy()
        inner = is_whole[number]
        inner[[0, -1]] = inner[:, [0, -1]] = False
        edge = np.abs(read - patches[number])[inner]
        assert inner.sum() > 10
        assert edge.max() < 3, (place, edge.max())  # of 255; patches differ by some 6


def test_planes_have_their_own_reading_only_where_the_head_knows_them() -> None:
    torch.manual_seed(0)
    features, points = torch.randn(1, 5, 4, 4, 4), torch.zeros(1, 3, 2, 3)
    planes, spread = torch.tensor([[0, 1, 2]]), torch.zeros(1, 3, 2)
    aware = DenseHead(5, 7)(features, planes, points, spread)
    assert aware.shape == (1, 3, 2, 7)
    assert not torch.allclose(aware[0, 0], aware[0, 1])
    blind = DenseHead(5, 7, plane_aware=False)(features, planes, points, spread)
    assert torch.allclose(blind[0, 0], blind[0, 2])


def test_places_without_a_token_count_for_nothing() -> None:
    torch.manual_seed(0)
    found, tokens = torch.randn(1, 1, 4, 3, requires_grad=True), torch.randn(1, 1, 4, 3)
    whole, _ = dense_loss(found[:, :, :2], tokens[:, :, :2])
    tokens[:, :, 2:] = float("nan")
    part, _ = dense_loss(found, tokens)
    assert torch.equal(whole, part)
    part.backward()
    assert not found.grad[:, :, 2:].any()
    assert dense_loss(found, torch.full_like(tokens, float("nan")))[0].item() == 0
    perfect, cosine = dense_loss(tokens[:, :, :2].clone(), tokens[:, :, :2])
    assert perfect.item() == pytest.approx(0, abs=1e-6)
    assert cosine.item() == pytest.approx(1)


def test_the_basis_keeps_what_varies_most_and_air_is_left_out() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(400, 3)).astype(np.float32) * (0.1, 5, 1) + (3, 0, 0)
    basis = fit_basis([tokens[:100].astype(np.float32), tokens[100:].astype(np.float32)], 2)
    found = basis.project(tokens.astype(np.float32))
    assert np.mean(found**2) == pytest.approx(1, rel=1e-4)
    assert abs(np.corrcoef(found[:, 0], tokens[:, 1])[0, 1]) > 0.99
    with pytest.raises(InputError, match="dense_components is 4; the image encoder's patch tokens have 3"):
        fit_basis([tokens.astype(np.float32)], 4)
    picture = np.zeros((1, 40, 40), np.uint8)
    picture[0, :20, :10] = 200
    assert shown_patches(picture, 4).sum() == 2
    kept = packed(CoarsePixels().encode_densely(picture)[1], picture, fit_basis([rng.normal(size=(50, 16))], 3))
    assert kept.dtype == np.float16
    assert np.isfinite(kept).all(axis=-1).sum() == 2


def test_crops_have_the_voxel_size_asked_for_and_know_their_place_in_the_scan() -> None:
    volume = slope_volume(shape=(40, 60, 60), slopes=(3.0, 0.0, 0.0))
    settings = TripletSettings(
        image_encoder="pixels", size=(8, 16, 16), slices_per_plane=8, picture_size=40, window="0,600",
        spacing_mm=(4.0, 3.0, 2.0), crops=6, crop_foreground=False,
    )  # fmt: skip
    found = list(cut_crops(volume, settings, name="a"))
    assert len(found) == 6
    for crop in found:
        axial = [place for place in crop.places if place.plane == "axial"]
        assert axial[-1].at - axial[0].at == pytest.approx((axial[-1].index - axial[0].index) / 8 * 16 / 40, abs=0.01)
        for place in axial:  # the value says how high the slice lies
            grey = float(crop.cube[place.index].mean()) / 255 * 600
            assert (grey - 200) / 300 == pytest.approx(place.at, abs=0.03)
    again = list(cut_crops(volume, settings, name="a"))
    other = list(cut_crops(volume, settings, name="b"))
    assert all(np.array_equal(one.cube, two.cube) for one, two in zip(found, again, strict=True))
    assert any(not np.array_equal(one.cube, two.cube) for one, two in zip(found, other, strict=True))
    with pytest.raises(VolumeError, match="states no voxel size"):
        list(cut_crops(Volume(voxels=volume.voxels), settings, name="a"))


def test_a_scan_smaller_than_a_crop_has_black_round_it() -> None:
    volume = slope_volume(shape=(10, 60, 60))
    settings = TripletSettings(
        image_encoder="pixels", size=(16, 16, 16), slices_per_plane=8, picture_size=40, window="0,600",
        spacing_mm=(4.0, 3.0, 2.0),
    )  # fmt: skip
    (crop,) = cut_crops(volume, settings, name="a")
    shown = (crop.cube > 0).any(axis=(1, 2))
    assert shown.sum() in (5, 6, 7)
    assert not shown[0]
    assert not shown[-1]


def test_crops_are_scans_of_their_own_with_tokens_of_every_slice(made, balls) -> None:
    found = open_triplets(made)
    assert len(found.scans) == 16
    assert found.token_size == 6
    assert len({scan.patient for scan in found.scans}) == 8
    scan = found.scans[0]
    part = scan.load_tokens(np.array([0, 9]), 40)
    assert part["tokens"].shape == (2, 16, 6)
    assert part["points"].shape == (2, 16, 3)
    assert any("% of the way" in text for text in scan.texts)
    again = make_triplets(balls, made, CROPS)
    assert again.num_scans == 16
    assert set(json.loads((made / "slices" / f"{scan.name}.json").read_text())["shapes"]) == set(PLANES)


@pytest.mark.parametrize("reads", ["decoder", "memory"])
def test_dense_tokens_are_learnt(made, tmp_path, reads) -> None:
    training = {"steps": 12, "learning_rate": 1e-2, "log_every": 3}
    run_pretraining(recipe_of(made, tmp_path / reads, dense_weight=1.0, dense_reads=reads, training=training))
    lines = log_of(tmp_path / reads)
    assert lines[-1]["dense_cosine"] > lines[0]["dense_cosine"] + 0.1
    model = PretrainingModel.from_pretrained(tmp_path / reads)
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == {"backbone", "dense"}


def test_shuffled_volumes_are_taught_another_volumes_tokens(made) -> None:
    scans = open_triplets(made).of_split("train")
    matched, shuffled = (
        PretrainSteps(scans, recipe_of(made, dense_weight=1.0, pairing=pairing), picture_size=40)[3]
        for pairing in ("matched", "shuffled")
    )
    assert torch.equal(matched["volumes"], shuffled["volumes"])
    assert not torch.equal(matched["tokens"].nan_to_num(), shuffled["tokens"].nan_to_num())


def test_near_slices_lie_side_by_side_in_one_plane(made) -> None:
    scans = open_triplets(made).of_split("train")
    steps = PretrainSteps(scans, recipe_of(made, image_weight=1.0, near_slices=True, slices_per_volume=3))
    for number in range(12):
        item = steps[number]
        assert len(item["planes"].unique()) == 1
        assert len(item["bins"].unique()) == 3
    far = PretrainSteps(scans, recipe_of(made, image_weight=1.0, slices_per_volume=3))
    assert max(len(far[number]["planes"].unique()) for number in range(12)) > 1


def test_two_views_of_a_volume_are_wanted_nearer_than_those_of_others(made, tmp_path) -> None:
    run_pretraining(recipe_of(made, tmp_path / "run", contrast_weight=1.0))
    model = PretrainingModel.from_pretrained(tmp_path / "run")
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == {"backbone", "contrast"}
    assert log_of(tmp_path / "run")[0]["contrast"] == pytest.approx(np.log(15), abs=0.6)
    with pytest.raises(InputError, match=r"set training\.batch_size to at least 8"):
        recipe_of(made, contrast_weight=1.0, training={"batch_size": 2})


def test_the_contrast_is_the_cross_entropy_of_each_view_against_all_others() -> None:
    torch.manual_seed(0)
    first, second = torch.randn(3, 4), torch.randn(3, 4)
    views = torch.nn.functional.normalize(torch.cat([first, second]), dim=-1)
    terms = []
    for number in range(6):
        alike = {other: float(views[number] @ views[other]) / 0.1 for other in range(6) if other != number}
        terms.append(np.log(sum(np.exp(list(alike.values())))) - alike[(number + 3) % 6])
    assert nt_xent(first, second).item() == pytest.approx(np.mean(terms), rel=1e-4)
    perfect = torch.eye(3, 4)
    assert nt_xent(perfect, perfect).item() < 0.01


def test_a_view_is_a_part_of_the_volume_with_other_grey_values() -> None:
    cube = np.zeros((8, 10, 12), np.float32)
    cube[2:6, 3:7, 4:8] = 1
    one, two = draw_view(cube, np.random.default_rng(0)), draw_view(cube, np.random.default_rng(1))
    assert one.shape == (1, 8, 10, 12)
    assert one.dtype == torch.float32
    assert 0 <= one.min() < one.max() <= 1
    assert not torch.equal(one, two)
    assert torch.equal(one, draw_view(cube, np.random.default_rng(0)))


def test_triplets_without_tokens_are_one_line(balls, tmp_path) -> None:
    settings = TripletSettings(image_encoder="pixels", size=(16, 16, 16), slices_per_plane=8, picture_size=40)
    make_triplets(balls, tmp_path / "none", settings)
    with pytest.raises(InputError, match="the triplets hold no patch tokens; set dense_weight: 0"):
        run_pretraining(recipe_of(tmp_path / "none", tmp_path / "run", dense_weight=1.0))


def test_settings_that_are_off_do_not_show_in_a_record() -> None:
    plain = recipe_of("x", image_weight=1.0).to_dict()
    assert not {"dense_weight", "near_slices", "contrast_weight"} & set(plain)
    assert "crops" not in TripletSettings(image_encoder="pixels").to_dict()
    assert build_settings(TripletSettings, CROPS.to_dict(), where="again") == CROPS


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"crops": 2, "spacing_mm": None}, "crops need a voxel size, set spacing_mm"),
        ({"spacing_mm": (0.0, 1.0, 1.0)}, "expected three sizes from 0.01 to 100 mm"),
        ({"image_encoder": "self-trained"}, "both image_encoder: self-trained and self_training"),
        ({"dense_components": -1}, "dense_components 0 or more"),
    ],
)
def test_a_wrong_setting_is_one_line(changes, expected) -> None:
    with pytest.raises(InputError) as error:
        build_settings(TripletSettings, {**CROPS.to_dict(), **changes}, where="t")
    assert expected in str(error.value)


def test_a_slice_of_a_crop_is_described_by_its_place_in_the_scan() -> None:
    assert SlicePlace("axial", 1, 4).fraction == pytest.approx(0.375)
    assert SlicePlace("axial", 1, 4, at=0.9).fraction == 0.9
    assert "at" not in SlicePlace("axial", 1, 4).to_dict()
