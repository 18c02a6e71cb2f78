"""How far is what the volume says of a slice from what the frozen 2D models say? (docs/method.md, losses)

    C_ij = sqrt((a_i − b_j)ᵀ M (a_i − b_j)) / max C,  π = entropic partial transport of C (reg 0.03, mass 0.95)
    transport      −(1/B) Σ_i log π_ii              (Med3DInsight)
    contrastive    symmetric cross-entropy of a·b / 0.07  (its 2024 version)
    reconstruction mean (x − x̂)² over the masked voxels, or over all where nothing is masked

Vectors are L2-normalised; M = diag(w): O positive weights (corrected) or the diagonal of a free matrix (released).
B pairs, O components. Everything here is computed in float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from slicesight.errors import InputError

CONTRASTIVE_SCALE = 1 / 0.07
REGULARISATION = 0.03
MASS = 0.95
SQUARE_FLOOR = 1e-12
"""Under the square root, whose slope at 0 is infinite."""
MAXIMUM_FLOOR = 1e-6
"""Under the division by the largest cost, which is 0 when all rows agree."""


class TransportLoss(nn.Module):
    """Partial optimal transport between a batch of vectors and its targets, with a learned metric."""

    def __init__(
        self,
        size: int,
        *,
        full_metric: bool = False,
        regularisation: float = REGULARISATION,
        mass: float = MASS,
        iterations: int = 100,
    ) -> None:
        super().__init__()
        import_transport()
        self.regularisation, self.mass, self.iterations = regularisation, mass, iterations
        if full_metric:
            self.metric_OO = nn.Parameter(torch.eye(size))
        else:
            self.log_metric_O = nn.Parameter(torch.zeros(size))
        self.full_metric = full_metric

    @property
    def metric_O(self) -> Tensor:
        """w, the weight of every component; of a full matrix only the diagonal enters, as released."""
        return self.metric_OO.diagonal() if self.full_metric else self.log_metric_O.exp()

    def forward(self, vectors_BO: Tensor, targets_BO: Tensor) -> Tensor:
        """−log of the mass that reaches each vector's own target -> (B,)."""
        cost_BB = transport_cost(normalised(vectors_BO), normalised(targets_BO), self.metric_O.float())
        plan_BB = transport_plan(
            cost_BB, regularisation=self.regularisation, mass=self.mass, iterations=self.iterations
        )
        return -plan_BB.diagonal().log()


class ContrastiveLoss(nn.Module):
    """Symmetric cross-entropy of cosine similarities, each pair against the rest of the batch."""

    def __init__(self, scale: float = CONTRASTIVE_SCALE) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, vectors_BO: Tensor, targets_BO: Tensor) -> Tensor:
        """The loss of every pair, half of it each way -> (B,)."""
        logits_BB = self.scale * normalised(vectors_BO) @ normalised(targets_BO).T
        partner = torch.arange(len(logits_BB), device=logits_BB.device)
        forth, back = (functional.cross_entropy(way, partner, reduction="none") for way in (logits_BB, logits_BB.T))
        return 0.5 * (forth + back)


def normalised(vectors_BO: Tensor) -> Tensor:
    """Unit length, float32."""
    return functional.normalize(vectors_BO.float(), dim=-1)


def transport_cost(vectors_BO: Tensor, targets_BO: Tensor, metric_O: Tensor) -> Tensor:
    """Distances under the metric, the largest of them 1 -> (B, B)."""
    offsets_BBO = vectors_BO.unsqueeze(1) - targets_BO.unsqueeze(0)
    cost_BB = (offsets_BBO.square() * metric_O).sum(dim=-1).clamp(min=SQUARE_FLOOR).sqrt()
    return cost_BB / cost_BB.max().clamp(min=MAXIMUM_FLOOR)


def transport_plan(
    cost_BB: Tensor, *, regularisation: float = REGULARISATION, mass: float = MASS, iterations: int = 100
) -> Tensor:
    """The entropic partial transport plan of uniform marginals -> (B, B), summing to `mass`.

    For distances between 10 to 32 vectors 100 iterations give the limit's loss to 0.0005; costs without any geometry
    need 1000, which is what the library does by default.
    """
    marginal_B = cost_BB.new_full((len(cost_BB),), 1 / len(cost_BB))
    plan_BB: Tensor = import_transport().entropic_partial_wasserstein(
        marginal_B, marginal_B, cost_BB, reg=regularisation, m=mass, numItermax=iterations, stopThr=1e-9
    )
    return plan_BB


def import_transport() -> Any:
    """`ot.partial` of the POT library, or the one line that says how to get it."""
    try:
        import ot.partial
    except ImportError as error:
        raise InputError(
            f'alignment: transport needs the POT library ({error}); run: pip install "slicesight[insight]", '
            "or set alignment: contrastive"
        ) from error
    return ot.partial


def reconstruction_loss(found_B1DHW: Tensor, volumes_B1DHW: Tensor, masked_B1DHW: Tensor | None = None) -> Tensor:
    """Mean squared error over the masked voxels, or over all of them where there is no mask."""
    squares = (found_B1DHW.float() - volumes_B1DHW.float()).square()
    if masked_B1DHW is None:
        return squares.mean()
    masked = masked_B1DHW.expand_as(squares)
    return (squares * masked).sum() / masked.sum().clamp(min=1)


class PairQueue(nn.Module):
    """The last pairs of earlier steps, as further partners that a step's pairs could be mistaken for.

    The vectors are as the model of their own step made them, and carry no gradient. Part of the weights of a
    checkpoint, so that a resumed run sees the same partners.
    """

    held: Tensor

    def __init__(self, length: int, sizes: dict[str, int]) -> None:
        super().__init__()
        self.length = length
        for name, size in sizes.items():
            self.register_buffer(f"{name}_vectors", torch.zeros(length, size))
            self.register_buffer(f"{name}_targets", torch.zeros(length, size))
        self.register_buffer("held", torch.zeros((), dtype=torch.long))

    def join(self, name: str, vectors_BO: Tensor, targets_BO: Tensor) -> tuple[Tensor, Tensor]:
        """The step's own pairs, and behind them those held -> two of (B + held, O)."""
        vectors, targets = self.get_buffer(f"{name}_vectors"), self.get_buffer(f"{name}_targets")
        held = int(self.held)
        return (
            torch.cat([vectors_BO.float(), vectors[:held]]),
            torch.cat([targets_BO.float(), targets[:held]]),
        )

    @torch.no_grad()
    def remember(self, pairs: dict[str, tuple[Tensor, Tensor]]) -> None:
        """Put the step's pairs in front; the oldest fall out."""
        for name, (vectors, targets) in pairs.items():
            for kind, fresh in (("vectors", vectors), ("targets", targets)):
                place = self.get_buffer(f"{name}_{kind}")
                place.copy_(torch.cat([fresh.float(), place])[: self.length])
        self.held.fill_(min(self.length, int(self.held) + len(next(iter(pairs.values()))[0])))
