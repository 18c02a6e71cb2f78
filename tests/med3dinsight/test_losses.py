"""The losses: check values, the formulas restated, and the corners where a division or a root could break."""

import math

import pytest
import torch

from slicesight.models.med3dinsight.losses import (
    ContrastiveLoss,
    PairQueue,
    TransportLoss,
    reconstruction_loss,
    transport_cost,
    transport_plan,
)


def random_pairs(num, size=12, seed=0, noise=1.0):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randn(num, size, generator=generator)
    return targets + noise * torch.randn(num, size, generator=generator), targets


@pytest.mark.parametrize("full_metric", [False, True])
def test_one_pair_gives_0_0513_whatever_the_vectors(full_metric) -> None:
    for seed in range(3):
        loss = TransportLoss(12, full_metric=full_metric)(*random_pairs(1, seed=seed))
        assert loss.item() == pytest.approx(-math.log(0.95), abs=1e-5)
        assert round(loss.item(), 4) == 0.0513


def test_ten_aligned_pairs_give_2_354_and_a_uniform_plan_4_656() -> None:
    aligned = torch.eye(10, 16)
    assert TransportLoss(16)(aligned, aligned).mean().item() == pytest.approx(2.354, abs=5e-4)
    same = torch.ones(10, 16)
    assert TransportLoss(16)(same, same).mean().item() == pytest.approx(-math.log(0.95 / 100), abs=1e-4)
    assert round(-math.log(0.95 / 100), 3) == 4.656


def test_the_plan_is_the_limit_of_alternating_projections() -> None:
    cost = torch.rand(9, 9, generator=torch.Generator().manual_seed(3))
    plan = transport_plan(cost.double(), iterations=2000)
    marginal = torch.full((9,), 1 / 9, dtype=torch.float64)
    wanted = torch.exp(-cost.double() / 0.03)
    wanted = wanted * 0.95 / wanted.sum()
    corrections = [torch.ones_like(wanted) for _ in range(3)]  # Dykstra: Benamou et al. 2015, proposition 5
    for _ in range(3000):
        for number, project in enumerate(
            (
                lambda p: p * (marginal / p.sum(1)).clamp(max=1)[:, None],
                lambda p: p * (marginal / p.sum(0)).clamp(max=1)[None, :],
                lambda p: p * 0.95 / p.sum(),
            )
        ):
            start = wanted * corrections[number]
            wanted = project(start)
            corrections[number] = start / wanted
    assert torch.allclose(plan, wanted, atol=1e-7)
    assert plan.sum().item() == pytest.approx(0.95, abs=1e-5)
    assert plan.sum(0).max() <= 1 / 9 + 1e-5


def test_100_iterations_give_the_limit_for_vectors() -> None:
    for noise in (0.5, 2.0):
        vectors, targets = random_pairs(12, size=64, noise=noise)
        cost = transport_cost(vectors, targets, torch.ones(64))
        short, long = (-transport_plan(cost, iterations=number).diag().log().mean() for number in (100, 2000))
        assert short.item() == pytest.approx(long.item(), abs=2e-3)


def test_the_cost_is_the_weighted_distance_over_its_largest() -> None:
    vectors, targets = random_pairs(5)
    metric = torch.rand(12, generator=torch.Generator().manual_seed(9)) + 0.1
    cost = transport_cost(vectors, targets, metric)
    matrix = torch.diag(metric)
    wanted = torch.tensor([[math.sqrt((a - b) @ matrix @ (a - b)) for b in targets] for a in vectors])
    assert torch.allclose(cost, wanted / wanted.max(), atol=1e-6)


def test_only_the_diagonal_of_the_released_metric_matters_and_corrected_weights_stay_positive() -> None:
    vectors, targets = random_pairs(8)
    released = TransportLoss(12, full_metric=True)
    before = released(vectors, targets)
    released.metric_OO.data += 5 * (1 - torch.eye(12))
    assert torch.equal(released(vectors, targets), before)
    corrected = TransportLoss(12)
    corrected.log_metric_O.data.fill_(-30)
    assert (corrected.metric_O > 0).all()
    assert sum(p.numel() for p in TransportLoss(512).parameters()) == 512


def test_gradients_are_finite_where_vectors_agree() -> None:
    for vectors in (torch.ones(8, 12), torch.eye(8, 12)):
        leaf = vectors.clone().requires_grad_()
        loss = TransportLoss(12)
        loss(leaf, vectors).mean().backward()
        assert torch.isfinite(leaf.grad).all()
        assert torch.isfinite(loss.log_metric_O.grad).all()


@pytest.mark.parametrize("make", [lambda: TransportLoss(12), ContrastiveLoss])
def test_a_step_against_the_gradient_brings_pairs_together(make) -> None:
    vectors, targets = random_pairs(8, noise=2.0)
    loss, leaf = make(), vectors.clone().requires_grad_()
    optimizer = torch.optim.SGD([leaf], lr=0.5)
    first = loss(leaf, targets).mean()
    for _ in range(20):
        optimizer.zero_grad()
        loss(leaf, targets).mean().backward()
        optimizer.step()
    assert loss(leaf, targets).mean() < first - 0.1


def test_contrastive_is_the_symmetric_cross_entropy_at_scale_1_over_0_07() -> None:
    vectors, targets = random_pairs(6)
    a, b = vectors / vectors.norm(dim=1, keepdim=True), targets / targets.norm(dim=1, keepdim=True)
    weights = torch.exp(a @ b.T / 0.07)
    wanted = -0.5 * ((weights.diag() / weights.sum(1)).log() + (weights.diag() / weights.sum(0)).log())
    assert torch.allclose(ContrastiveLoss()(vectors, targets), wanted, atol=1e-4)
    alike = torch.ones(6, 12)
    assert ContrastiveLoss()(alike, alike).mean().item() == pytest.approx(math.log(6), abs=1e-5)


def test_losses_are_float32_for_bfloat16_vectors() -> None:
    vectors, targets = (part.bfloat16() for part in random_pairs(8))
    for loss in (TransportLoss(12), ContrastiveLoss()):
        assert loss(vectors, targets).dtype == torch.float32


def test_reconstruction_counts_masked_voxels_only_and_all_without_a_mask() -> None:
    volumes = torch.zeros(2, 1, 2, 2, 2)
    found = volumes.clone()
    found[0, 0, 0] = 3.0  # four voxels of sixteen, squares of 9
    masked = torch.zeros(2, 1, 2, 2, 2, dtype=torch.bool)
    masked[:, :, 1] = True
    assert reconstruction_loss(found, volumes).item() == pytest.approx(9 / 4)
    assert reconstruction_loss(found, volumes, masked).item() == 0.0
    assert reconstruction_loss(found, volumes, ~masked).item() == pytest.approx(9 / 2)
    assert reconstruction_loss(found, volumes, torch.zeros_like(masked)).item() == 0.0


def test_the_queue_keeps_the_newest_pairs_as_partners() -> None:
    queue = PairQueue(5, {"image": 2})
    for step in range(4):
        vectors = torch.full((2, 2), float(step), requires_grad=True)
        joined, targets = queue.join("image", vectors, vectors)
        assert joined[:2].requires_grad
        assert len(joined) == len(targets) == 2 + min(5, 2 * step)
        queue.remember({"image": (vectors, 10 * vectors)})
    joined, targets = queue.join("image", torch.zeros(1, 2), torch.zeros(1, 2))
    assert joined[:, 0].tolist() == [0, 3, 3, 2, 2, 1]
    assert targets[1:, 0].tolist() == [30, 30, 20, 20, 10]
    assert set(queue.state_dict()) == {"image_vectors", "image_targets", "held"}
