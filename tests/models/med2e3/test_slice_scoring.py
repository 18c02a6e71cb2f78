from pathlib import Path

import numpy as np
import pytest
import torch

from slicesight.errors import ModelError
from slicesight.models.med2e3 import slice_scoring as tgis

GOLDEN = np.load(Path(__file__).with_name("golden_slice_scoring.npz"))
INDEX = torch.zeros(1, 1, dtype=torch.long)


def run_all(tokens_3d_KPD, tokens_2d_NLD, question_QD, dtype=torch.float64):
    """The whole of TG-IS for one volume and one question."""
    tokens_3d, tokens_2d, question = (
        torch.as_tensor(array).to(dtype)[None] for array in (tokens_3d_KPD, tokens_2d_NLD, question_QD)
    )
    vectors = tgis.describe_slices(tokens_3d, tokens_2d, num_slices=tokens_2d.shape[1])
    text = tgis.average_question(question, torch.ones(question.shape[:2], dtype=torch.bool))
    dots = tgis.rate_slices(text, vectors, INDEX)
    scores = tgis.normalise_scores(dots, INDEX)
    weighted = tgis.weigh_slices(scores, tokens_2d, INDEX)
    joined = tgis.join_branches(tokens_3d, weighted, INDEX)
    return {
        "vectors": vectors[0],
        "dots": dots[0, 0],
        "scores": scores[0, 0],
        "weighted": weighted[0, 0],
        "joined": joined[0, 0],
    }


@pytest.mark.parametrize("case", ["three_bins", "bin_per_slice", "one_bin"])
def test_every_step_equals_the_formula_in_numpy(case):
    found = run_all(*(GOLDEN[f"{case}.{key}"] for key in ("tokens_3d", "tokens_2d", "question_tokens")))
    for key, value in found.items():
        np.testing.assert_allclose(value.double().numpy(), GOLDEN[f"{case}.{key}"], rtol=0, atol=1e-5, err_msg=key)


@pytest.mark.shared_data
@pytest.mark.parametrize("case", ["full", "small", "one_slice_per_layer"])
def test_every_step_equals_the_paper_golden_within_a_hundred_thousandth(official_golden, case):
    golden = np.load(official_golden / "paper_tgis.npz")
    layers = int(golden[f"{case}.layers"])
    tokens_3d = golden[f"{case}.V3"].reshape(layers, -1, golden[f"{case}.V3"].shape[-1])
    question = golden[f"{case}.E"][golden[f"{case}.question_ids"]]
    found = run_all(tokens_3d, golden[f"{case}.V2"], question, dtype=torch.float32)
    names = {"vectors": "z", "dots": "dots", "scores": "scores", "weighted": "z2D", "joined": "zI"}
    for key, name in names.items():
        np.testing.assert_allclose(found[key].numpy(), golden[f"{case}.{name}"], rtol=0, atol=1e-5, err_msg=name)


def test_slices_of_one_depth_bin_share_its_tokens_and_neighbours_do_not():
    tokens = torch.arange(4.0).reshape(1, 4, 1, 1)
    repeated = tgis.repeat_depth_bins(tokens, 8).flatten().tolist()
    assert repeated == [0, 0, 1, 1, 2, 2, 3, 3]


def test_slices_that_do_not_divide_into_bins_are_refused_with_both_numbers():
    with pytest.raises(ModelError, match="10 slices do not divide into 4 depth bins"):
        tgis.repeat_depth_bins(torch.zeros(1, 4, 1, 1), 10)


@pytest.mark.parametrize("branches", ["3d", "2d"])
def test_slice_vectors_of_one_branch_are_its_own_mean(branches):
    tokens_3d, tokens_2d = torch.randn(2, 2, 3, 5), torch.randn(2, 4, 6, 5)
    found = tgis.describe_slices(
        tokens_3d if branches == "3d" else None, tokens_2d if branches == "2d" else None, num_slices=4
    )
    for volume in range(2):
        for j in range(4):
            expected = tokens_3d[volume, j // 2].mean(0) if branches == "3d" else tokens_2d[volume, j].mean(0)
            torch.testing.assert_close(found[volume, j], expected)


def test_permuting_slices_permutes_scores_and_leaves_the_aggregate():
    question, vectors, tokens = torch.randn(1, 6), torch.randn(1, 5, 6), torch.randn(1, 5, 3, 6)
    order = torch.tensor([3, 0, 4, 1, 2])
    scores = tgis.normalise_scores(tgis.rate_slices(question, vectors, INDEX), INDEX)
    permuted = tgis.normalise_scores(tgis.rate_slices(question, vectors[:, order], INDEX), INDEX)
    torch.testing.assert_close(permuted, scores[..., order])
    torch.testing.assert_close(
        tgis.weigh_slices(permuted, tokens[:, order], INDEX), tgis.weigh_slices(scores, tokens, INDEX)
    )


def test_a_one_hot_score_picks_that_slice_alone():
    tokens = torch.randn(2, 5, 3, 6)
    scores = torch.zeros(1, 1, 5)
    scores[..., 3] = 1
    picked = tgis.weigh_slices(scores, tokens, torch.tensor([[1]]))
    assert torch.equal(picked[0, 0], tokens[1, 3])


def test_scores_sum_to_one_in_bfloat16():
    vectors, question = torch.randn(1, 32, 64).bfloat16() * 3, torch.randn(1, 64).bfloat16()
    scores = tgis.normalise_scores(tgis.rate_slices(question, vectors, INDEX), INDEX)
    assert scores.dtype == torch.float32
    assert abs(float(scores.sum()) - 1) < 1e-5


def test_huge_relevance_still_gives_finite_scores():
    scores = tgis.normalise_scores(torch.tensor([[[1e30, -1e30, 0.0]]]), INDEX)
    assert scores.flatten().tolist() == [1.0, 0.0, 0.0]


def test_scale_multiplies_the_relevance_before_the_softmax():
    relevance = torch.randn(1, 1, 7)
    found = tgis.normalise_scores(relevance, INDEX, scale=0.2)
    torch.testing.assert_close(found, torch.softmax(relevance / 5, dim=-1))


def test_l2_relevance_is_a_cosine():
    question, vectors = torch.randn(2, 6), torch.randn(1, 5, 6)
    index = torch.zeros(2, 1, dtype=torch.long)
    found = tgis.rate_slices(question * 100, vectors * 0.01, index, norm="l2")
    expected = torch.cosine_similarity(question[:, None], vectors, dim=-1)
    torch.testing.assert_close(found[:, 0], expected)


def test_each_prompt_is_weighed_on_its_own_volumes_and_minus_one_is_nothing():
    tokens, scores = torch.randn(3, 4, 2, 5), torch.rand(2, 2, 4)
    index = torch.tensor([[2, 0], [1, -1]])
    weighted = tgis.weigh_slices(tgis.normalise_scores(scores, index), tokens, index)
    weights = torch.softmax(scores, dim=-1)
    for prompt, place, volume in ((0, 0, 2), (0, 1, 0), (1, 0, 1)):
        expected = sum(weights[prompt, place, j] * tokens[volume, j] for j in range(4))
        torch.testing.assert_close(weighted[prompt, place], expected)
    assert not weighted[1, 1].any()


def test_the_question_mean_ignores_every_other_token():
    embeds = torch.randn(1, 6, 4)
    mask = torch.tensor([[False, True, True, False, True, False]])
    torch.testing.assert_close(tgis.average_question(embeds, mask)[0], embeds[0, [1, 2, 4]].mean(0))


def test_maximum_is_element_wise_and_its_shares_sum_to_one():
    tokens = torch.randn(2, 4, 3, 5)
    index = torch.tensor([[1], [0]])
    found, shares = tgis.take_slice_maximum(tokens, index)
    torch.testing.assert_close(found[:, 0], torch.stack([tokens[1].amax(0), tokens[0].amax(0)]))
    torch.testing.assert_close(shares.sum(-1), torch.ones(2, 1))
    assert float(shares[0, 0, 2]) == pytest.approx(float((tokens[1].argmax(0) == 2).float().mean()))


def test_random_scores_are_a_seeded_softmax_of_normals_that_ignores_the_rest_of_the_batch():
    ids, index = torch.tensor([[5, 6, -1], [7, 8, 9]]), torch.zeros(2, 1, dtype=torch.long)
    both = tgis.draw_random_scores(ids, index, 16, seed=3)
    alone = tgis.draw_random_scores(ids[1:], index[1:], 16, seed=3)
    assert torch.equal(both[1:], alone)
    assert not torch.allclose(both[0], both[1])
    assert not torch.allclose(alone, tgis.draw_random_scores(ids[1:], index[1:], 16, seed=4))
    many = tgis.draw_random_scores(ids, torch.zeros(2, 1, dtype=torch.long), 20000, seed=None).log()
    assert float(many.std(dim=-1).mean()) == pytest.approx(1.0, abs=0.03)
