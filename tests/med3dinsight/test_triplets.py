"""The folder of triplets: whole or not finished, never half; made once, found again, refused when made otherwise."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from slicesight.errors import InputError, VolumeError
from slicesight.settings import build_settings
from slicesight.training.pretraining_recipe import PretrainRecipe, TripletSettings
from slicesight.training.triplets import making as triplets
from slicesight.training.triplets.dataset import PretrainSteps, draw_mask, open_triplets, shuffled_partners
from slicesight.training.triplets.making import list_scans, make_triplets

SETTINGS = TripletSettings(
    image_encoder="pixels", text_encoder="words", text="labels", size=(16, 16, 16), slices_per_plane=8, picture_size=40
)
NAMES = {"1": "the ball"}


@pytest.fixture(scope="module")
def made(balls, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "triplets"
    report = make_triplets(balls, folder, dataclasses.replace(SETTINGS, label_names=NAMES))
    return report, folder


def recipe_of(folder, **changes) -> PretrainRecipe:
    content = {"name": "t", "output_dir": "out", "data": str(folder), "training": {"batch_size": 8, "steps": 6}}
    return build_settings(PretrainRecipe, {**content, **changes}, where="recipe")


def test_every_scan_gives_slices_of_three_planes_with_vectors_and_texts(made) -> None:
    report, folder = made
    found = open_triplets(folder)
    assert (report.num_scans, report.num_triplets, report.skipped) == (8, 8 * 24, ())
    assert report.num_texts == report.num_triplets
    assert found.size == (16, 16, 16)
    assert found.sizes == {"image": 256, "text": 256}
    assert not found.shares_space
    assert [scan.split for scan in found.scans] == ["train"] * 6 + ["val", "test"]
    for scan in found.scans:
        assert np.bincount(scan.planes).tolist() == [8, 8, 8]
        assert (scan.index < scan.count).all()
        assert scan.load_cube().shape == (16, 16, 16)
        assert 0 <= scan.load_cube().min() < 0.2 < 0.8 < scan.load_cube().max() <= 1
        assert len(scan.vectors["image"]) == len(scan.vectors["text"]) == len(scan.texts) == 24


def test_texts_from_label_maps_are_marked_as_annotation_derived(made, balls, tmp_path) -> None:
    _, folder = made
    lines = [json.loads(line) for line in (folder / "triplets.jsonl").read_text().splitlines()]
    assert {line["text_source"] for line in lines} == {"annotation-derived"}
    assert open_triplets(folder).text_source == "annotation-derived"
    assert any("It shows the ball (" in line["text"] for line in lines)
    assert any("It shows no labelled structure." in line["text"] for line in lines)
    assert lines[0]["text"].startswith("An axial medical slice of the body, ")
    for text in ("position", "none"):
        report = make_triplets(balls, tmp_path / text, dataclasses.replace(SETTINGS, text=text))
        assert "annotation" not in open_triplets(tmp_path / text).text_source
        assert report.num_texts == (0 if text == "none" else report.num_triplets)
    assert open_triplets(tmp_path / "none").sizes == {"image": 256}


def test_a_stopped_run_goes_on_and_gives_the_same_folder(made, balls, tmp_path, monkeypatch) -> None:
    _, whole = made
    settings = dataclasses.replace(SETTINGS, label_names=NAMES)
    done = []

    def stop_at_third(*arguments, **more):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(1)
        return cut(*arguments, **more)

    cut = triplets.cut_scan
    monkeypatch.setattr(triplets, "cut_scan", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        make_triplets(balls, tmp_path / "t", settings)
    with pytest.raises(InputError, match="not finished; run slicesight insight triplets again"):
        open_triplets(tmp_path / "t")
    monkeypatch.setattr(triplets, "cut_scan", lambda *a, **m: done.append(1) or cut(*a, **m))
    make_triplets(balls, tmp_path / "t", settings)
    assert len(done) == 8
    for path in sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file()):
        assert (tmp_path / "t" / path).read_bytes() == (whole / path).read_bytes(), path
    done.clear()
    make_triplets(balls, tmp_path / "t", settings)
    assert not done


def test_a_folder_made_otherwise_is_refused(made, balls, tmp_path) -> None:
    _, folder = made
    with pytest.raises(InputError, match=r"made with picture_size 40, wanted 50; name another folder"):
        make_triplets(balls, folder, dataclasses.replace(SETTINGS, label_names=NAMES, picture_size=50))
    with pytest.raises(InputError, match="of other scans"):
        make_triplets(balls.parent / "scan0.nii.gz", folder, dataclasses.replace(SETTINGS, label_names=NAMES))
    (tmp_path / "mine.txt").write_text("do not touch")
    with pytest.raises(InputError, match="not empty and holds no triplets"):
        make_triplets(balls, tmp_path, SETTINGS)
    with pytest.raises(InputError, match="holds no triplets; make them with"):
        open_triplets(tmp_path)


def test_a_folder_of_scans_needs_no_list(balls, tmp_path) -> None:
    for number in range(3):
        shutil.copy(balls.parent / f"scan{number}.nii.gz", tmp_path)
    (tmp_path / "notes.txt").write_text("not a scan")
    found = list_scans(tmp_path)
    assert [case.name for case in found] == ["00001-scan0", "00002-scan1", "00003-scan2"]
    assert {case.split for case in found} == {"train"}
    assert len(list_scans(tmp_path / "scan0.nii.gz")) == 1
    with pytest.raises(InputError, match="no such file or folder"):
        list_scans(tmp_path / "nowhere")


def test_an_unreadable_scan_stops_the_run_or_is_skipped_and_named(balls, tmp_path) -> None:
    scans = tmp_path / "scans"
    scans.mkdir()
    shutil.copy(balls.parent / "scan0.nii.gz", scans)
    (scans / "broken.nii.gz").write_bytes(b"not a scan")
    settings = dataclasses.replace(SETTINGS, text="none")
    with pytest.raises(VolumeError, match="broken"):
        make_triplets(scans, tmp_path / "stopped", settings)
    report = make_triplets(scans, tmp_path / "skipped", settings, on_bad_case="skip")
    assert report.num_scans == 1
    ((name, reason),) = report.skipped
    assert "broken" in name
    assert "broken.nii.gz" in reason
    with pytest.raises(VolumeError, match="has no mask, and text: labels reads one"):
        make_triplets(scans / "scan0.nii.gz", tmp_path / "labels", SETTINGS)


def test_every_item_is_a_function_of_seed_and_number_and_every_scan_comes_up_once_a_pass(made) -> None:
    _, folder = made
    scans = open_triplets(folder).scans
    steps = PretrainSteps(scans, recipe_of(folder, slices_per_volume=2, intensity_jitter=0.1))
    again = PretrainSteps(scans, recipe_of(folder, slices_per_volume=2, intensity_jitter=0.1))
    assert len(steps) == 48
    first, same, other = steps[11], again[11], steps[12]
    assert {key: tuple(value.shape) for key, value in first.items()} == {
        "volumes": (1, 16, 16, 16),
        "planes": (2,),
        "bins": (2,),
        "masked": (1, 16, 16, 16),
        "image": (2, 256),
        "text": (2, 256),
    }
    assert all((first[key] == same[key]).all() for key in first)
    assert not all((first[key] == other[key]).all() for key in first)
    owners = [owner_of(steps[item], scans) for item in range(16)]
    assert sorted(owners[:8]) == sorted(owners[8:]) == list(range(8))
    assert owners[:8] != owners[8:]


def owner_of(item, scans) -> int:
    (found,) = {
        number
        for number, scan in enumerate(scans)
        if any(np.array_equal(item["image"][0].numpy(), vector) for vector in scan.vectors["image"])
    }
    return found


def test_a_scans_slices_all_come_up_before_one_returns(made) -> None:
    _, folder = made
    scan = open_triplets(folder).scans[:1]
    steps = PretrainSteps(scan, recipe_of(folder, slices_per_volume=5))
    shown = [row for item in range(5) for row in steps._slices(scan[0], 0, item)]
    assert sorted(shown[:24]) == list(range(24))


def test_shuffled_pairing_gives_every_volume_the_slices_of_another(made) -> None:
    _, folder = made
    scans = open_triplets(folder).scans
    partner = shuffled_partners(8, seed=3)
    assert sorted(partner) == list(range(8))
    assert (partner != np.arange(8)).all()
    matched = PretrainSteps(scans, recipe_of(folder, seed=3))
    shuffled = PretrainSteps(scans, recipe_of(folder, seed=3, pairing="shuffled"))
    for item in range(8):
        assert (matched[item]["volumes"] == shuffled[item]["volumes"]).all()
        assert owner_of(shuffled[item], scans) == partner[owner_of(matched[item], scans)]
    with pytest.raises(InputError, match="at least two scans"):
        PretrainSteps(scans[:1], recipe_of(folder, pairing="shuffled"))


def test_a_mask_hides_whole_cells_and_exactly_their_share() -> None:
    mask = draw_mask((16, 16, 12), share=0.5, cell=4, rng=np.random.default_rng(0))
    assert mask.mean() == 0.5
    cells = mask.reshape(4, 4, 4, 4, 3, 4).mean(axis=(1, 3, 5))
    assert set(np.unique(cells)) == {0.0, 1.0}
    assert draw_mask((10, 9, 7), share=0.5, cell=4, rng=np.random.default_rng(0)).shape == (10, 9, 7)


def test_a_split_without_scans_is_named(made) -> None:
    _, folder = made
    assert len(open_triplets(folder).of_split("train")) == 6
    with pytest.raises(InputError, match="no scan has the split 'dev'"):
        open_triplets(folder).of_split("dev")


def test_a_line_says_what_takes_the_place_of_nan_and_another_makes_other_triplets(tmp_path) -> None:
    voxels = np.random.default_rng(0).random((20, 24, 28), dtype=np.float32)
    voxels[:3] = np.nan
    np.save(tmp_path / "nan.npy", voxels)
    plain = dataclasses.replace(SETTINGS, text="none", text_encoder=None)

    def make(**fill):
        line = {"image": "nan.npy", "patient": "p", **fill}
        (tmp_path / "list.jsonl").write_text(json.dumps(line) + "\n")
        return make_triplets(tmp_path / "list.jsonl", tmp_path / ("filled" if fill else "bare"), plain)

    with pytest.raises(VolumeError, match="NaN"):
        make()
    assert make(fill="LOWEST").num_triplets > 0
    with pytest.raises(InputError, match="holds triplets made of other scans"):
        make(fill=9)


def test_a_scan_is_scored_with_what_takes_the_place_of_nan(tmp_path, monkeypatch) -> None:
    from types import SimpleNamespace

    from slicesight.evaluation import scan_scores

    voxels = np.random.default_rng(0).random((8, 10, 12), dtype=np.float32)
    voxels[:2] = np.nan
    np.save(tmp_path / "nan.npy", voxels)
    np.save(tmp_path / "mask.npy", np.ones((8, 10, 12), np.uint8))
    line = {"image": "nan.npy", "mask": "mask.npy", "patient": "p", "split": "test", "fill": -7}
    (tmp_path / "list.jsonl").write_text(json.dumps(line) + "\n")
    seen = []

    def segment(_, volume, *, name):
        seen.append((name, float(volume.voxels.min())))
        raise VolumeError("seen")

    monkeypatch.setattr(scan_scores, "train_segmenter", lambda *_, **__: None)
    monkeypatch.setattr(scan_scores, "segment_volume", segment)
    recipe = SimpleNamespace(output_dir=tmp_path, data=tmp_path / "list.jsonl", root=None, score_splits=("test",))
    with pytest.raises(VolumeError, match="seen"):
        scan_scores.run_segmentation(recipe)
    assert seen == [("nan.npy", -7.0)]
