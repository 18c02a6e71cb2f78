"""How well can plain networks answer questions made from label maps, when they are taught the label maps themselves?

    python benchmarks/anatomy_upper.py PREPARED --split test --out DIR [--kinds slices volume]

slices: a small 2D network says for every slice of the grid how many pixels of each structure it shows. volume: a 3D
segmenter (MONAI's SegResNet, 8 filters) outlines the structures on the grid. Both are trained on the `train` split, and
their counts, slice by slice, answer the questions by rules: in view where at least two slices show it, the range from
the first such slice to the last, and so on. Writes DIR/slices.jsonl and DIR/volume.jsonl, which
`anatomy_scores.py --rows NAME=FILE` puts beside the models. N slices, Y structures.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from slicesight.data.dataset import PreparedDataset, open_dataset
from slicesight.data.manifest import Case, Conversation
from slicesight.data.sources.mask_questions import SIZES, THIRDS, range_text
from slicesight.evaluation.controls import as_prediction
from slicesight.evaluation.predictions import Prediction, to_lines
from slicesight.models.encoders3d.monai import import_monai
from slicesight.training.augmentation import Augmentation, draw_change, move
from slicesight.training.stage0.label_maps import LabelledScans, read_labelled_scans

CHANGE = Augmentation(intensity=0.1, noise=0.02, rotate_deg=5, shift=0.05, zoom=0.1)
SHOWN_SHARE = 0.15
"""Of a structure's pixels in its fullest slice; a slice with more shows it."""
LEAST_SLICES = 2


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prepared", type=Path)
    parser.add_argument("--split", default="val")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kinds", nargs="+", choices=("slices", "volume"), default=["slices", "volume"])
    parser.add_argument("--steps", type=int, nargs=2, default=(1200, 700), metavar=("SLICES", "VOLUME"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    training = read_labelled_scans(_labelled(options.prepared, "train"))
    source = open_dataset(f"prepared:{options.prepared}", split=options.split)
    assert isinstance(source, PreparedDataset)
    for kind, steps in zip(("slices", "volume"), options.steps, strict=True):
        if kind not in options.kinds:
            continue
        torch.manual_seed(options.seed)
        started = time.process_time()
        train = train_slices if kind == "slices" else train_volume
        count = train(training, steps=steps, rng=np.random.default_rng(options.seed))
        rows: list[Prediction] = []
        for case in source.cases:
            with torch.inference_mode():
                pixels_NY = count(torch.from_numpy(source.voxels(case)))
            rows += answer(case, pixels_NY, training.scheme.cell_labels)
        (options.out / f"{kind}.jsonl").write_text(to_lines(rows), encoding="utf-8")
        say(f"{kind}: {(time.process_time() - started) / 60:.1f} CPU minutes")


def _labelled(prepared: Path, split: str) -> PreparedDataset:
    dataset = open_dataset(f"prepared:{prepared}", split=split)
    assert isinstance(dataset, PreparedDataset)
    return dataset.subset(case for case in dataset.cases if case.labels is not None)


# --- networks --------------------------------------------------------------------------------------------------------


class SliceCounter(nn.Module):
    """A small 2D network: slices (S, 1, H, W) -> (S, Y) square roots of the pixels of each structure."""

    def __init__(self, num_structures: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 1
        for following in (24, 48, 80, 112):
            layers += [
                nn.Conv2d(width, following, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(following),
                nn.ReLU(),
            ]
            layers += [nn.Conv2d(following, following, 3, padding=1, bias=False), nn.BatchNorm2d(following), nn.ReLU()]
            width = following
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(2 * width, num_structures)

    def forward(self, slices: Tensor) -> Tensor:
        features = self.body(slices)
        pooled = torch.cat([features.mean(dim=(2, 3)), features.amax(dim=(2, 3))], dim=1)
        return functional.softplus(self.head(pooled))


def train_slices(
    scans: LabelledScans, *, steps: int, rng: np.random.Generator
) -> Callable[[Tensor], NDArray[np.float64]]:
    num_structures, num_slices = len(scans.scheme.cell_labels), scans.voxels.shape[1]
    network = SliceCounter(num_structures)

    def loss_of() -> Tensor:
        picked = [divmod(int(place), num_slices) for place in rng.integers(len(scans) * num_slices, size=32)]
        for _ in range(64):
            places = scans.seen_in[rng.integers(len(scans.seen_in))]
            picked.append(divmod(int(places[rng.integers(len(places))]), num_slices))
        pixels, labels = zip(*(changed(scans, case, slice(n, n + 1), rng) for case, n in picked), strict=True)
        counts = np.stack([np.bincount(label.ravel(), minlength=num_structures + 1)[1:] for label in labels])
        known = torch.from_numpy(np.stack([scans.known[case, n] for case, n in picked]).astype(np.float32))
        found = network(torch.from_numpy(np.stack(pixels)))
        apart = functional.smooth_l1_loss(found, torch.from_numpy(np.sqrt(counts)).float(), reduction="none")
        return (apart * known).sum() / known.sum()

    fit(network, loss_of, steps=steps, rate=3e-3)
    return lambda voxels: network(voxels[:, None]).square().double().numpy()


def train_volume(
    scans: LabelledScans, *, steps: int, rng: np.random.Generator
) -> Callable[[Tensor], NDArray[np.float64]]:
    """A structure that was not drawn, or is not known in a slice, gives no loss there."""
    nets = import_monai("monai.networks.nets")
    num_structures = len(scans.scheme.cell_labels)
    network = nets.SegResNet(spatial_dims=3, init_filters=8, in_channels=1, out_channels=num_structures,
                             blocks_down=(1, 2, 2, 2), blocks_up=(1, 1, 1))  # fmt: skip

    def loss_of() -> Tensor:
        cases = rng.integers(len(scans), size=2)
        pixels, labels = zip(*(changed(scans, int(case), slice(None), rng) for case in cases), strict=True)
        known = torch.from_numpy(scans.known[cases].astype(np.float32)).transpose(1, 2)[..., None, None]
        true = torch.from_numpy(np.stack(labels)).long()
        true_BYNHW = functional.one_hot(true, num_structures + 1)[..., 1:].permute(0, 4, 1, 2, 3).float()
        logits = network(torch.from_numpy(np.stack(pixels))[:, None])
        entropy = functional.binary_cross_entropy_with_logits(logits, true_BYNHW, reduction="none") * known
        chance = logits.sigmoid() * known
        both = (chance * true_BYNHW).sum(dim=(0, 2, 3, 4))
        dice = 1 - (2 * both + 1) / (chance.sum(dim=(0, 2, 3, 4)) + (true_BYNHW * known).sum(dim=(0, 2, 3, 4)) + 1)
        return entropy.mean() * 10 + dice.mean()

    fit(network, loss_of, steps=steps, rate=2e-3)
    return lambda voxels: (network(voxels[None, None]) > 0)[0].sum(dim=(2, 3)).T.double().numpy()


def changed(
    scans: LabelledScans, case: int, part: slice, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Picture and label map, moved alike."""
    change = draw_change(CHANGE, rng)
    pixels = move(scans.voxels[case, part].astype(np.float32) / 255, change)
    pixels = (pixels - 0.5) * np.float32(change.contrast) + np.float32(0.5 + change.brightness)
    labels = move(scans.labels[case, part].astype(np.float32), change, nearest=True)
    return np.clip(pixels, 0, 1), np.rint(labels).astype(np.int64)


def fit(network: nn.Module, loss_of: Callable[[], Tensor], *, steps: int, rate: float) -> None:
    """AdamW, one cycle."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    network.train()
    for step in range(steps):
        loss = loss_of()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            say(f"step {step}: {loss.item():.4f}")
    network.eval()


# --- answers ---------------------------------------------------------------------------------------------------------


def answer(case: Case, pixels_NY: NDArray[np.float64], names: Sequence[str]) -> list[Prediction]:
    """What the counts say to every question of a case."""
    counts = Counts(pixels_NY, names)
    rows = []
    for number, asked in enumerate(case.conversations):
        said = counts.answer(asked)
        rows.append(as_prediction(case, number, said, choice=said if asked.choices else None))
    return rows


class Counts:
    """Pixels of every structure in every slice of one grid."""

    def __init__(self, pixels_NY: NDArray[np.float64], names: Sequence[str]) -> None:
        self.of = {name: pixels_NY[:, number] for number, name in enumerate(names)}
        self.num_slices = len(pixels_NY)

    def shown(self, name: str) -> NDArray[np.int64]:
        """The slices that show a structure."""
        pixels = self.of[name]
        return np.flatnonzero(pixels > max(2.0, SHOWN_SHARE * float(pixels.max())))

    def is_in_view(self, name: str) -> bool:
        return len(self.shown(name)) >= LEAST_SLICES

    def strength(self, name: str) -> float:
        """How much of it the two fullest slices show."""
        return float(np.sort(self.of[name])[-2:].sum())

    def middle(self, name: str) -> float:
        pixels = self.of[name]
        return float((pixels * (np.arange(self.num_slices) + 0.5)).sum() / max(pixels.sum(), 1e-6))

    def answer(self, asked: Conversation) -> str:
        assert asked.id is not None
        about = "" if asked.topic == "report" else asked.id.split(":")[3]
        subjects = [name for name in about.replace("_", " ").split("+") if name in self.of]
        rule: Any = getattr(self, f"_{asked.topic.replace(' ', '_')}", None)
        return "" if rule is None else str(rule(asked, *subjects))

    def _presence(self, asked: Conversation, name: str) -> str:
        return "yes" if self.is_in_view(name) else "no"

    def _in_view(self, asked: Conversation, *_: str) -> str:
        return max(asked.choices or (), key=self.strength)

    def _not_in_view(self, asked: Conversation, *_: str) -> str:
        return min(asked.choices or (), key=self.strength)

    def _third(self, asked: Conversation, name: str) -> str:
        return THIRDS[min(2, int(3 * self.middle(name) / self.num_slices))]

    def _slices(self, asked: Conversation, name: str) -> str:
        shown = self.shown(name)
        return range_text(int(shown[0]) + 1, int(shown[-1]) + 1, self.num_slices) if len(shown) else ""

    def _most(self, asked: Conversation, name: str) -> str:
        return f"slice {int(self.of[name].argmax()) + 1} of {self.num_slices}"

    def _count(self, asked: Conversation, name: str) -> str:
        return f"{len(self.shown(name))} of {self.num_slices} slices"

    def _near(self, asked: Conversation, name: str) -> str:
        def held(choice: str) -> float:
            first, last = (int(word) for word in choice.removeprefix("slices ").split(" to "))
            return float(self.of[name][first - 1 : last].sum())

        return max(asked.choices or (), key=held)

    def _higher(self, asked: Conversation, *_: str) -> str:
        return max(asked.choices or (), key=self.middle)

    def _larger(self, asked: Conversation, one: str, other: str) -> str:
        return "yes" if self.of[one].sum() > self.of[other].sum() else "no"

    def _size(self, asked: Conversation, name: str) -> str:
        return SIZES[1]  # pixels of the grid have no size

    def _report(self, asked: Conversation) -> str:
        names = [name for name in self.of if self.is_in_view(name)]
        return f"In view: {', '.join(names)}." if names else "Nothing is in view."


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    main()
