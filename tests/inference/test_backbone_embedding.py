"""Encoders that answer no questions give vectors too: Med3DInsight's networks of every kind, and M3D-CLIP."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from slicesight.errors import InputError
from slicesight.inference.embedding import load_embedder
from slicesight.models.encoders3d.backbones import build_backbone, save_backbone
from slicesight.models.med3dinsight import Classifier, InsightConfig, PretrainingModel, Segmenter
from slicesight.models.med3dinsight.preparation import prepare_scan
from slicesight.models.med3dinsight.psat import slice_bins
from slicesight.volumes.grid import to_grid
from slicesight.volumes.volume import PLANES

pytest.importorskip("monai", reason="decoders of backbones are MONAI's")
SIZE = (16, 32, 32)
SETTINGS = {"widths": [8, 12], "blocks": [0, 0], "strides": [[2, 4, 4], [2, 2, 2]], "num_groups": 4, "feature_size": 4}
SPEC = {"name": "cnn3d", "image_size": SIZE, "settings": SETTINGS}
RECIPE = {
    "variant": "corrected",
    "image_weight": 1.0,
    "text_weight": 0.0,
    "reconstruction_weight": 0.0,
    "queue": 0,
    "alignment": "contrastive",
    "psat": {"num_queries": 4, "num_layers": 1, "num_heads": 2},
    "triplets": {"window": "bone", "crop_foreground": False},
}


def config(**more) -> InsightConfig:
    return InsightConfig(backbone=SPEC, **more)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of every kind, with random weights."""
    place = tmp_path_factory.mktemp("insight")
    torch.manual_seed(0)
    save_backbone(build_backbone("cnn3d", image_size=SIZE, **SETTINGS), place / "backbone")
    about = {"recipe": RECIPE, "sizes": {"image": 6}, "shares_space": False}
    how = {"spacing_mm": [20.0, 8.0, 8.0], "window": "soft_tissue"}
    facts = {"num_scans": 1, "modalities": ["MR"], "units": ["arbitrary"], "spacing_mm": None, "values": [0, 1]}
    for name, model in {
        "pretraining": PretrainingModel(config(pretraining=about)),
        "segmenter": Segmenter(config(labels={"liver": 1}, preparation=how, trained_on=facts)),
        "classifier": Classifier(config(classes=["a", "b"], preparation={"window": "soft_tissue"})),
    }.items():
        model.save_pretrained(place / name)
    return place


@pytest.mark.parametrize("kind", ["backbone", "pretraining", "segmenter", "classifier"])
def test_every_kind_of_folder_gives_a_volume_vector_and_depth_bins(folders, kind, phantom):
    found = load_embedder(folders / kind).embed(phantom.volume)
    assert found.volume.shape == (12,)
    assert np.linalg.norm(found.volume) == pytest.approx(1, abs=1e-6)
    assert found.depth_bins.shape[-1] == 12
    mean = found.depth_bins.mean(axis=(0, 1))
    np.testing.assert_allclose(found.volume, mean / np.linalg.norm(mean), atol=1e-6)
    assert (found.slices is None) == (kind != "pretraining")
    assert ("slices" in found.missing) == (found.slices is None)


def test_a_pretrained_backbone_reads_the_cube_that_its_triplets_were_cut_as(folders, phantom):
    embedder = load_embedder(folders / "pretraining")
    assert (embedder.grid_spec.window, embedder.grid_spec.crop_foreground) == ("bone", False)
    grid = to_grid(phantom.volume, embedder.grid_spec)
    found = embedder.embed(phantom.volume)
    model = embedder.pretraining
    index = torch.arange(16)[None]
    bins = slice_bins(index, torch.full_like(index, 16))
    with torch.inference_mode():
        memory = model.backbone.encode(torch.from_numpy(grid.voxels)[None, None]).memory
        read = model.read_memory(memory, torch.full_like(index, PLANES.index("axial")), bins)["image"][0].numpy()
    np.testing.assert_allclose(found.slices, read / np.linalg.norm(read, axis=1, keepdims=True), atol=1e-5)
    np.testing.assert_allclose(found.depth_bins, memory[0].flatten(2).permute(1, 2, 0).numpy(), atol=1e-6)
    assert found.slice_places == grid.slices
    np.testing.assert_array_equal(embedder.embed(grid).volume, found.volume)


def test_a_scan_larger_than_the_cube_is_read_whole_in_neighbouring_cubes(folders, phantom):
    """Each cube's cells are those that the network gives for it alone, at its own place; padding leaves no cell."""
    embedder = load_embedder(folders / "segmenter")
    prepared = prepare_scan(phantom.volume, embedder.preparation, image_size=SIZE, name="scan").voxels
    assert any(extent > side for extent, side in zip(prepared.shape, SIZE, strict=True)), "the test needs a larger scan"
    found = embedder.embed(phantom.volume)
    cells = [-(-extent * count // side) for extent, count, side in zip(prepared.shape, (4, 4, 4), SIZE, strict=True)]
    assert found.depth_bins.shape == (cells[0], cells[1] * cells[2], 12)
    padded = np.zeros(
        [-(-extent // side) * side for extent, side in zip(prepared.shape, SIZE, strict=True)], np.float32
    )
    padded[tuple(map(slice, prepared.shape))] = prepared
    last = [extent // side - 1 for extent, side in zip(padded.shape, SIZE, strict=True)]
    cube = padded[tuple(slice(n * side, (n + 1) * side) for n, side in zip(last, SIZE, strict=True))]
    with torch.inference_mode():
        memory = embedder.backbone.encode(torch.from_numpy(cube)[None, None]).memory[0].permute(1, 2, 3, 0).numpy()
    grid = found.depth_bins.reshape(*cells, 12)
    own = tuple(slice(n * 4, None) for n in last)
    kept = grid[own]
    np.testing.assert_allclose(kept, memory[tuple(map(slice, kept.shape[:3]))], atol=1e-5)


def test_a_scan_of_another_kind_than_the_network_learnt_from_is_warned_of(folders, phantom):
    (warning, *_) = load_embedder(folders / "segmenter").embed(phantom.volume).warnings
    assert warning == "this scan is CT, the model learnt from MR"


def test_what_a_backbone_cannot_do_is_one_line(folders, phantom, tiny_reader):
    with pytest.raises(InputError, match="no language model"):
        load_embedder(folders / "backbone").embed(phantom.volume, space="language")
    grid = tiny_reader.grid(phantom.volume)
    with pytest.raises(InputError, match=r"reads a grid of 16×32×32, axial; this scan lies on 8×32×32"):
        load_embedder(folders / "backbone").embed(grid)
    with pytest.raises(InputError, match="its own voxel size"):
        load_embedder(folders / "segmenter").embed(grid)


def test_m3d_clip_gives_its_projected_class_token(tmp_path, phantom):
    from transformers import BertConfig

    from slicesight.models.encoders3d.configuration import M3DViTConfig
    from slicesight.models.importers.m3d import M3DClip, M3DClipConfig

    torch.manual_seed(0)
    sizes = {"hidden_size": 12, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vit = M3DViTConfig(image_size=[8, 32, 32], patch_size=[4, 16, 16], use_cls_token=True, **sizes)
    model = M3DClip(M3DClipConfig(vision3d_config=vit, text_encoder_config=BertConfig(vocab_size=20, **sizes)))
    model.save_pretrained(tmp_path / "clip")
    embedder = load_embedder(tmp_path / "clip")
    found = embedder.embed(phantom.volume)
    grid = to_grid(phantom.volume, embedder.grid_spec)
    with torch.inference_mode():
        expected = model.eval().encode_volumes(torch.from_numpy(grid.voxels)[None, None])[0].numpy()
    np.testing.assert_allclose(found.volume, expected, atol=1e-5)
    assert found.depth_bins.shape == (2, 4, 12)
    assert embedder.grid_spec.window == "m3d"
