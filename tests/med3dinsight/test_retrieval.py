"""Slice retrieval: hits counted as the definition says, ties at chance, and the shortcut by place alone."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from slicesight.settings import build_settings
from slicesight.training.pretraining import build_pretraining
from slicesight.training.pretraining_recipe import PretrainRecipe, TripletSettings
from slicesight.training.triplets.dataset import open_triplets
from slicesight.training.triplets.making import make_triplets

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from slice_vectors import SliceVectors, guess_by_place, mean_by_patient, read_slices, recall_at_1


def vectors_of(found, own, *, scans, planes) -> SliceVectors:
    found, own = (np.asarray(part, np.float32) for part in (found, own))
    return SliceVectors(
        scans=np.array(scans),
        patients=tuple(f"p{scan}" for scan in scans),
        planes=np.array(planes),
        places=np.zeros(len(scans)),
        found=found,
        own=own,
    )


def test_a_hit_is_the_nearest_of_the_same_plane_or_of_the_same_volume_too() -> None:
    own = np.eye(6)
    found = own.copy()
    found[0] = own[2]  # another volume's slice of the same plane
    found[1] = own[3]  # a slice of another plane: no candidate
    found[1, 1] = 0.1
    vectors = vectors_of(found, own, scans=[0, 0, 1, 1, 2, 2], planes=[0, 1, 0, 2, 0, 1])
    hits, chance = recall_at_1(vectors)
    assert hits.tolist() == [0, 1, 1, 1, 1, 1]
    assert chance == pytest.approx((3 * 1 / 3 + 2 * 1 / 2 + 1) / 6)
    hits, chance = recall_at_1(vectors, candidates="volume")
    assert hits.tolist() == [1] * 6
    assert chance == 1.0
    assert mean_by_patient(hits, vectors.patients) == {"p0": 1.0, "p1": 1.0, "p2": 1.0}


def test_equal_similarities_share_the_hit() -> None:
    own = np.eye(4)
    found = np.tile(np.ones(4) / 2, (4, 1))
    hits, chance = recall_at_1(vectors_of(found, own, scans=[0] * 4, planes=[1] * 4), candidates="volume")
    assert hits.tolist() == [0.25] * 4
    assert chance == 0.25


@pytest.fixture(scope="module")
def triplets(balls, tmp_path_factory):
    settings = TripletSettings(image_encoder="pixels", size=(16, 16, 16), slices_per_plane=8, picture_size=40)
    folder = tmp_path_factory.mktemp("triplets") / "t"
    make_triplets(balls, folder, settings)
    return open_triplets(folder)


def make_model(triplets, **psat):
    content = {"name": "t", "output_dir": "o", "data": "d", "text_weight": 0, "training": {"batch_size": 8}}
    backbone = {"name": "segresnet", "settings": {"init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]}}
    psat = {"num_queries": 2, "num_layers": 1, "num_heads": 2, **psat}
    torch.manual_seed(0)
    recipe = build_settings(PretrainRecipe, {**content, "backbone": backbone, "psat": psat}, where="recipe")
    about = {"sizes": triplets.sizes, "shares_space": triplets.shares_space}
    return build_pretraining(recipe, image_size=triplets.size, **about).eval()


def test_slices_read_in_parts_are_those_read_at_once(triplets) -> None:
    model, scans = make_model(triplets), triplets.of_split("train")[:2]
    vectors = read_slices(model, scans)
    assert vectors.found.shape == vectors.own.shape == (48, 256)
    assert np.allclose(np.linalg.norm(vectors.found, axis=1), 1, atol=1e-5)
    cube = torch.from_numpy(scans[1].load_cube())[None, None]
    planes, bins = torch.from_numpy(scans[1].planes)[None], torch.from_numpy(128 * scans[1].index // 16)[None]
    with torch.no_grad():
        once = torch.nn.functional.normalize(model.read(cube, planes, bins)["image"][0], dim=-1)
    assert np.allclose(vectors.found[24:], once, atol=1e-5)
    assert np.array_equal(vectors.scans, [0] * 24 + [1] * 24)


def test_without_plane_slice_embeddings_the_place_in_a_volume_is_found_by_chance_only(triplets) -> None:
    vectors = read_slices(make_model(triplets, plane_slice=False), triplets.scans)
    hits, chance = recall_at_1(vectors, candidates="volume")
    assert hits.mean() == pytest.approx(chance, abs=1e-6) == pytest.approx(1 / 8)


def test_the_guess_by_place_knows_the_place_and_not_the_volume(triplets) -> None:
    guessed = guess_by_place(triplets.of_split("train"), triplets.of_split("test") + triplets.of_split("val"))
    same_place = {}
    for plane, place, vector in zip(guessed.planes, guessed.places, guessed.found, strict=True):
        assert np.allclose(same_place.setdefault((plane, place), vector), vector, atol=1e-5)
    inside, chance = recall_at_1(guessed, candidates="volume")
    assert inside.mean() > 1.5 * chance


@pytest.mark.slow
def test_the_benchmark_trains_what_is_missing_and_writes_its_tables(balls, tmp_path, capsys) -> None:
    import importlib.util
    import json

    place = Path(__file__).parents[2] / "benchmarks" / "slice_retrieval.py"
    spec = importlib.util.spec_from_file_location("slice_retrieval", place)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(
        "verb: insight pretrain\nname: tiny\noutput_dir: x\ndata: x\n"
        "triplets: {image_encoder: pixels, size: [16, 16, 16], slices_per_plane: 8, picture_size: 40}\n"
        "backbone: {name: segresnet, settings: {init_filters: 8, blocks_down: [1, 1], blocks_up: [1]}}\n"
        "psat: {num_queries: 2, num_layers: 1, num_heads: 2}\ntransport_iterations: 10\n"
        "training: {steps: 2, batch_size: 8}\ntext_weight: 0\n"
    )
    own = ["--set", "triplets.image_encoder=pixels", "--set", "triplets.text_encoder=null"]
    arms = ["--arms", "image_text", "no_place", "--seeds", "0", "1"]
    script.main([str(balls), "--out", str(tmp_path / "runs"), "--recipe", str(recipe), *own, *arms])
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    (no_place,) = [line for line in facts["tables"]["volume"] if line["arm"] == "no_place"]
    assert no_place["r_at_1"] == pytest.approx(1 / 8)
    assert len(no_place["seeds"]) == 2
    assert "place alone" in (tmp_path / "runs" / "retrieval.md").read_text()
