"""How does a 2D encoder learn from the slices that it is going to teach with, without labels or other pictures?

SimSiam (Chen and He 2021): two random views of a slice pass a small ResNet and a projector; a predictor makes of each
what the other is, whose own side gets no gradient:

    L = −½ cos(p₁, stop(z₂)) − ½ cos(p₂, stop(z₁))

The views are crops of the picture of half to all of its sides, mirrored, with other contrast, brightness and noise.
What is written is transformers' ResNetModel, so that it is opened as any image encoder is: pooled features are its
slice's vector, its last feature map the patch tokens. The check against collapse: the deviation of the normalised
projections, 1/√O where they spread over the sphere, 0 where all slices look alike; below a tenth of that the run says
so.

B pictures of P x P pixels, O components of a projection.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import ResNetConfig, ResNetModel

from slicesight.errors import InputError
from slicesight.files import write_text
from slicesight.models.med3dinsight.teachers import IMAGENET_MEAN, IMAGENET_STD
from slicesight.training.fitting import Progress
from slicesight.training.pretraining_recipe import SelfTraining

PROJECTION = 128
LEAST_SIDE, JITTER, NOISE = 0.5, 0.3, 0.03
COLLAPSED = 0.1
FACTS = "self_training.json"


class SelfTeacher(nn.Module):
    """A ResNet with the projector and the predictor that it learns with."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        config = ResNetConfig(
            embedding_size=widths[0], hidden_sizes=list(widths), depths=[1] * len(widths), layer_type="basic"
        )
        self.encoder = ResNetModel(config)
        self.projector = nn.Sequential(
            nn.Linear(widths[-1], PROJECTION), nn.BatchNorm1d(PROJECTION), nn.ReLU(),
            nn.Linear(PROJECTION, PROJECTION), nn.BatchNorm1d(PROJECTION, affine=False),
        )  # fmt: skip
        self.predictor = nn.Sequential(
            nn.Linear(PROJECTION, PROJECTION // 4), nn.BatchNorm1d(PROJECTION // 4), nn.ReLU(),
            nn.Linear(PROJECTION // 4, PROJECTION),
        )  # fmt: skip

    def forward(self, first_B3PP: Tensor, second_B3PP: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, and how far the projections spread."""
        one, other = (self.projector(self.encoder(view).pooler_output.flatten(1)) for view in (first_B3PP, second_B3PP))
        ways = [
            functional.cosine_similarity(self.predictor(mine), theirs.detach(), dim=-1).mean()
            for mine, theirs in ((one, other), (other, one))
        ]
        spread = functional.normalize(one.detach(), dim=-1).std(dim=0).mean()
        return -(ways[0] + ways[1]) / 2, spread


def learn_teacher(
    picture_files: Sequence[Path],
    folder: Path,
    settings: SelfTraining,
    *,
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
    seed: int = 0,
) -> None:
    """Train on the pictures of these files (T, P, P) and write the encoder, unless the folder holds it.

    Raises:
        InputError: no pictures, or an encoder for which all slices look alike.
    """
    if (folder / FACTS).is_file():
        return
    if not picture_files:
        raise InputError("self_training: there is no slice of the split train to learn from; set split: train on scans")
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = SelfTeacher(settings.widths).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=1e-2)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, total_steps=settings.steps + 1)
    losses, spreads = [], []
    for step in range(settings.steps):
        pictures = _draw(picture_files, settings.batch_size, rng)
        views = [_views(pictures, settings.side, rng).to(device) for _ in range(2)]
        loss, spread = model(*views)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        rate.step()
        losses.append(float(loss.detach()))
        spreads.append(float(spread))
        if progress is not None:
            progress("teaching the 2D encoder", step + 1, settings.steps)
    last = max(1, settings.steps // 10)
    facts = {"steps": settings.steps, "loss": float(np.mean(losses[-last:])), "spread": float(np.mean(spreads[-last:])),
             "spread_at_most": PROJECTION**-0.5}  # fmt: skip
    if facts["spread"] < COLLAPSED * PROJECTION**-0.5:
        raise InputError(
            f"self_training: all slices look alike to the encoder after {settings.steps} steps (spread "
            f"{facts['spread']:.4f}); lower self_training.learning_rate, or train it on more scans"
        )
    model.encoder.eval().save_pretrained(folder)
    write_text(folder / FACTS, text=json.dumps(facts) + "\n")


def _draw(files: Sequence[Path], count: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Pictures of `count` random slices, four of a file where there are as many files as that."""
    found = []
    for place in rng.integers(len(files), size=-(-count // 4)):
        pictures = np.load(files[place], mmap_mode="r", allow_pickle=False)
        found += [np.asarray(pictures[number]) for number in rng.integers(len(pictures), size=4)]
    return np.stack(found[:count])


def _views(pictures_BPP: NDArray[np.uint8], side: int, rng: np.random.Generator) -> Tensor:
    """A random view of each picture -> (B, 3, side, side), normalised as image encoders' pictures are."""
    count = len(pictures_BPP)
    grey = torch.from_numpy(pictures_BPP)[:, None].float() / 255
    scale = torch.from_numpy(rng.uniform(LEAST_SIDE, 1, (count, 1))).float()
    mirrored = torch.from_numpy(rng.choice([-1.0, 1.0], (count, 1))).float()
    offset = torch.from_numpy(rng.uniform(-1, 1, (count, 2))).float() * (1 - scale)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = (scale * mirrored)[:, 0], scale[:, 0]
    theta[:, :, 2] = offset
    grid = functional.affine_grid(theta, [count, 1, side, side], align_corners=False)
    seen = functional.grid_sample(grey, grid, mode="bilinear", align_corners=False)
    contrast, brightness = torch.from_numpy(rng.uniform(-JITTER, JITTER, (2, count, 1, 1, 1))).float()
    noise = torch.from_numpy(rng.standard_normal(seen.shape, dtype=np.float32)) * NOISE
    changed = ((seen - 0.5) * (1 + contrast) + 0.5 + brightness / 2 + noise).clamp(0, 1)
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (IMAGENET_MEAN, IMAGENET_STD))
    found: Tensor = (changed.expand(-1, 3, -1, -1) - mean) / std
    return found
