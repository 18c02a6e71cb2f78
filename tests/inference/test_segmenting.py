"""How a scan is outlined: mirror images, windows of air, half precision, what is kept of the encoder."""

import numpy as np
import pytest
import torch

from slicesight.errors import InputError
from slicesight.inference import segmenting
from slicesight.inference.segmenting import ABSENT, count_windows, drop_small_pieces, segment_scan, segment_volume
from slicesight.models.encoders3d.backbones import build_backbone
from slicesight.models.med3dinsight import InsightConfig, Segmenter
from slicesight.models.med3dinsight.preparation import Preparation
from slicesight.volumes.volume import Volume

LABELS = {"cord": 1, "left gland": 5, "right gland": 3}


def make_segmenter(*, seed=0, mirror_average=True, bf16=False, outputs="sigmoid", spacing=2.0):
    torch.manual_seed(seed)
    how = Preparation(spacing_mm=(spacing,) * 3, window="-300,500")
    config = InsightConfig(
        labels=LABELS, preparation=how.to_dict(), outputs=outputs, mirror_average=mirror_average, bf16=bf16
    )
    backbone = build_backbone("segresnet", image_size=(8, 8, 8), init_filters=8, blocks_down=[1, 1], blocks_up=[1])
    segmenter = Segmenter(config, backbone)
    if outputs == "sigmoid":
        torch.nn.init.normal_(segmenter.head.weight, std=3.0)
        torch.nn.init.zeros_(segmenter.head.bias)
    return segmenter.eval()


def make_volume(voxels):
    return Volume(
        voxels=np.ascontiguousarray(voxels, dtype=np.float32),
        affine_lps=np.array([[0, 0, 2.0, 0], [0, 2.0, 0, 0], [2.0, 0, 0, 0], [0, 0, 0, 1]]),
        spacing_mm=(2.0, 2.0, 2.0),
        modality="CT",
        unit="HU",
    )


@pytest.fixture
def body():
    """Noise between air and bone, 18 x 13 x 21: no multiple of the window or its steps."""
    return np.random.default_rng(0).uniform(-400, 600, (18, 13, 21))


@pytest.mark.parametrize(("seed", "spacing"), [(0, 2.0), (1, 2.0), (2, 1.7), (3, 2.9)])
def test_a_mirrored_scan_has_mirrored_labels_whatever_the_network_says(body, seed, spacing):
    segmenter = make_segmenter(seed=seed, spacing=spacing)
    found = segment_volume(segmenter, make_volume(body), name="scan")
    mirrored = segment_volume(segmenter, make_volume(body[:, :, ::-1]), name="scan")
    exchanged = np.select([found == 5, found == 3], [3, 5], found)
    assert len(np.unique(found)) > 2
    assert np.array_equal(mirrored, exchanged[:, :, ::-1])


def test_without_averaging_a_mirrored_scan_need_not(body):
    segmenter = make_segmenter(mirror_average=False)
    found = segment_volume(segmenter, make_volume(body), name="scan")
    mirrored = segment_volume(segmenter, make_volume(body[:, :, ::-1]), name="scan")
    assert not np.array_equal(mirrored[:, :, ::-1], np.select([found == 5, found == 3], [3, 5], found))


def test_a_side_without_its_counterpart_cannot_be_averaged():
    backbone = build_backbone("segresnet", image_size=(8, 8, 8), init_filters=8, blocks_down=[1, 1], blocks_up=[1])
    with pytest.raises(InputError, match="'left lung' has no counterpart"):
        Segmenter(InsightConfig(labels={"left lung": 1}, mirror_average=True), backbone)


def test_windows_of_air_are_not_looked_at_and_hold_nothing(body, monkeypatch):
    air = np.full((18, 13, 60), -1000.0)
    air[:, :, :8] = body[:, :, :8]
    segmenter = make_segmenter(mirror_average=False)
    looked = []
    forward = Segmenter.forward
    monkeypatch.setattr(Segmenter, "forward", lambda self, x: looked.extend(x) or forward(self, x))
    steps = []
    found = segment_scan(segmenter, make_volume(air), name="scan", progress=lambda *said: steps.append(said))
    total = count_windows((18, 13, 60), (8, 8, 8), 0.5)
    assert len(looked) < total / 3
    assert not found.labels[:, :, 20:].any()
    assert [s for s in steps if s[0] == "segmenting"][-1] == ("segmenting", total, total)
    assert ABSENT < -10


def test_a_softmax_network_looks_at_one_window_of_air_and_takes_its_answer_for_all(body, monkeypatch):
    air = np.full((18, 13, 60), -1000.0)
    air[:, :, :8] = body[:, :, :8]
    segmenter = make_segmenter(mirror_average=False, outputs="softmax")
    looked = []
    forward = Segmenter.forward
    monkeypatch.setattr(Segmenter, "forward", lambda self, x: looked.extend(x) or forward(self, x))
    found = segment_volume(segmenter, make_volume(air), name="scan")
    assert sum(not window.any() for window in looked) == 1
    assert len(looked) < count_windows((18, 13, 60), (8, 8, 8), 0.5) / 3
    monkeypatch.setattr(segmenting._Windows, "_look", lambda self, windows: self._logits(windows))
    assert np.array_equal(found, segment_volume(segmenter, make_volume(air), name="scan"))


def test_small_windows_go_several_at_a_time_and_large_ones_alone(body, monkeypatch):
    logits = {}
    for most in (1, segmenting.MOST_WINDOWS):
        monkeypatch.setattr(segmenting, "MOST_WINDOWS", most)
        segmenter = make_segmenter(mirror_average=False)
        sizes = []
        segmenter.register_forward_hook(lambda _, given, __, sizes=sizes: sizes.append(len(given[0])))
        windows = segmenting._Windows(segmenter, body.shape, None)
        with torch.inference_mode():
            logits[most] = windows.slide(torch.from_numpy(body / 1000).float()[None, None])
        assert max(sizes) == windows.at_a_time == most
    monkeypatch.setattr(segmenting, "WINDOW_VOXELS", 8**3)
    assert segmenting._Windows(segmenter, body.shape, None).at_a_time == 1
    one, several = logits.values()
    assert (one - several).abs().max() < 1e-4 * one.std()


def test_half_precision_is_taken_only_where_the_processor_multiplies_it(body, monkeypatch):
    kinds = []
    forward = Segmenter.forward

    def noted(self, x):
        kinds.append(torch.is_autocast_enabled("cpu"))
        return forward(self, x)

    monkeypatch.setattr(Segmenter, "forward", noted)
    results = {}
    for has in (True, False):
        monkeypatch.setattr(segmenting, "multiplies_bf16", lambda device, has=has: has)
        for bf16 in (True, False):
            kinds.clear()
            results[has, bf16] = segment_volume(make_segmenter(bf16=bf16), make_volume(body), name="scan")
            assert set(kinds) == {has and bf16}
    assert (results[True, True] == results[True, False]).mean() > 0.95
    assert np.array_equal(results[False, True], results[True, False])


def test_the_memory_and_the_probabilities_are_those_of_the_unmirrored_scan(body):
    segmenter = make_segmenter()
    one = segment_scan(segmenter, make_volume(body), name="scan", keeps_memory=True)
    assert one.memory.shape == (2 * segmenter.backbone.memory_width,)
    assert np.isfinite(one.memory).all()
    assert (one.memory[segmenter.backbone.memory_width :] >= 0).all()
    for name, value in LABELS.items():
        assert (one.likely[name] is None) == (not (one.labels == value).any())
    assert all(value > 0.5 for value in one.likely.values() if value is not None)
    without = segment_scan(segmenter, make_volume(body), name="scan")
    assert without.memory is None
    assert np.array_equal(without.labels, one.labels)


def test_the_windows_that_are_counted_are_those_that_monai_looks_at():
    from monai.inferers import sliding_window_inference

    for shape in ((8, 8, 8), (18, 13, 21), (5, 40, 9)):
        seen = torch.nn.Identity()
        looked = []
        seen.register_forward_hook(lambda *_, looked=looked: looked.append(1))
        sliding_window_inference(torch.zeros(1, 1, *shape), (8, 8, 8), 1, seen, overlap=0.5, mode="gaussian")
        assert len(looked) == count_windows(shape, (8, 8, 8), 0.5)


def test_pieces_far_smaller_than_a_structures_largest_are_dropped():
    logits = torch.full((3, 6, 8, 8), -5.0)
    logits[0] = 0
    logits[1, :, :4, :4] = 2  # 96 voxels
    logits[1, 0, 6:, 6:] = 2  # 4
    logits[1, 3:, 6:, 6:] = 2  # 12
    logits[2, 5, 7, 0] = 1  # the only piece of its structure
    logits[2, 0, 6, 6] = 1  # as large, under the other's
    drop_small_pieces(logits, 0.1)
    fullest = logits.argmax(dim=0)
    assert int((fullest == 1).sum()) == 96 + 12
    assert fullest[5, 7, 0] == 2
    assert fullest[0, 6, 6] == 2
