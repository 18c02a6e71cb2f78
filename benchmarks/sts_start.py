"""What do all runs of sts_vqa.py start from? The parts put together, and connectors whose tokens say what they show.

Stage 0, as phantom-tiny has one: without the language model, the connectors (and the 3D encoder) learn on the training
cubes that a token's cosine to the embedding of a word is high where the word is true: modality, plane, tumour or
normal in these slices, and for the mean of the 3D tokens the size class. In a trial from random connectors the
loss stayed at the blind twin's. Three minutes of one thread; the seeds share it.
V volumes, N slices, K depth bins, L tokens, D width.
"""

from __future__ import annotations

from pathlib import Path

import torch
from sts_questions import MODALITIES, SIZES, SOURCE
from torch import Tensor, nn
from torch.nn import functional

import slicesight
from slicesight.data.dataset import PreparedDataset, open_dataset
from slicesight.models.med2e3.modeling import Med2E3ForConditionalGeneration
from slicesight.training.recipe import Recipe
from slicesight.training.start import build_start
from slicesight.volumes.volume import PLANES

WORDS = {"modality": tuple(MODALITIES), "plane": PLANES, "tumour": ("normal", "tumour"), "size": SIZES}
EPOCHS_2D, EPOCHS_3D, BATCH = 12, 16, 16
LEARNING_RATE = 1e-3
SHARPNESS = 20.0
NORM_WEIGHT = 0.02


def start_folder(out: Path, recipe: Recipe, encoder3d: str) -> Path:
    """OUT/start, made on first use from the recipe's parts and the 3D encoder of a model."""
    folder = out / "start"
    if (folder / "config.json").exists():
        return folder
    if not (out / "encoder3d" / "config.json").exists():
        keep_encoder3d(encoder3d, recipe, out / "encoder3d")
    torch.manual_seed(0)
    scans = open_dataset(f"prepared:{out / 'prepared'}", split="train", grid=recipe.grid)
    model, processor = build_start(recipe, scans)
    pretrain(model, processor.tokenizer, scans)
    processor.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def keep_encoder3d(name: str, recipe: Recipe, folder: Path) -> None:
    """Write a model's 3D encoder, which is convolutional, as a part for volumes of the recipe's size."""
    encoder = slicesight.load(name).model.vision3d.encoder.to(torch.float32)
    encoder.config.image_size = [recipe.grid.num_slices, recipe.grid.height, recipe.grid.width]
    encoder.save_pretrained(folder)


def pretrain(model: Med2E3ForConditionalGeneration, tokenizer, scans: PreparedDataset) -> None:
    """Stage 0 on the real training cubes."""
    real = [case for case in range(len(scans)) if scans.cases[case].source == SOURCE]
    volumes_V1NHW = torch.stack([torch.from_numpy(scans.voxels(scans.cases[case])) for case in real])[:, None]
    truth, tumour_VN = read_truth(scans, real)
    words = {kind: embed_words(model, tokenizer, names) for kind, names in WORDS.items()}
    model.eval()
    with torch.no_grad():
        features_VNLC = torch.cat([model.encode_2d(few) for few in volumes_V1NHW.split(4)])
        features_VKPC = torch.cat([model.encode_3d(few) for few in volumes_V1NHW.split(4)])
        standardise(model.projector_2d[0], features_VNLC.flatten(0, -2))
        standardise(model.projector_3d[0], features_VKPC.flatten(0, -2))

    def loss_2d(chosen: Tensor) -> Tensor:
        tokens_VND = model.projector_2d(features_VNLC[chosen]).mean(dim=2)
        return say_loss(tokens_VND, tumour_VN[chosen].long(), truth, chosen, words)

    def loss_3d(chosen: Tensor) -> Tensor:
        flips = [axis for axis in (2, 3, 4) if torch.rand(()) < 0.5]
        shown = volumes_V1NHW[chosen].flip(flips) * (0.85 + 0.3 * torch.rand(len(chosen), 1, 1, 1, 1))
        tumour = tumour_VN[chosen].flip(1) if 2 in flips else tumour_VN[chosen]
        tokens_VKD = model.projector_3d(model.vision3d(shown.clamp(max=1))).mean(dim=2)
        in_bin_VK = tumour.unflatten(1, (tokens_VKD.shape[1], -1)).float().mean(dim=2) >= 0.5
        size = SHARPNESS * cosines(tokens_VKD.mean(dim=1), words["size"])
        loss = say_loss(tokens_VKD, in_bin_VK.long(), truth, chosen, words)
        return loss + functional.cross_entropy(size, truth["size"][chosen])

    fit(loss_2d, list(model.projector_2d.parameters()), num=len(real), epochs=EPOCHS_2D)
    learning = [*model.projector_3d.parameters(), *model.vision3d.parameters()]
    fit(loss_3d, learning, num=len(real), epochs=EPOCHS_3D)


def read_truth(scans: PreparedDataset, cases: list[int]) -> tuple[dict[str, Tensor], Tensor]:
    """Class numbers (V,) of modality, plane and size, and which slices show tumour (V, N)."""
    truth: dict[str, list[int]] = {kind: [] for kind in ("modality", "plane", "size")}
    tumour = torch.zeros(len(cases), scans.prepared.spec.num_slices, dtype=torch.bool)
    for row, case in enumerate(cases):
        asked = {conversation.topic: conversation for conversation in scans.cases[case].conversations}
        for kind, numbers in truth.items():
            numbers.append(WORDS[kind].index(asked[kind].answer))
        tumour[row, list(asked["third"].source_slices)] = True
    return {kind: torch.tensor(numbers) for kind, numbers in truth.items()}, tumour


def embed_words(model: Med2E3ForConditionalGeneration, tokenizer, names: tuple[str, ...]) -> Tensor:
    """The language model's own embeddings of words, the mean where one has several tokens -> (words, D)."""
    table = model.get_input_embeddings().weight.detach()
    ids = [tokenizer(f" {name}", add_special_tokens=False)["input_ids"] for name in names]
    return torch.stack([table[torch.tensor(of_word)].mean(dim=0) for of_word in ids])


def say_loss(
    tokens_VTD: Tensor, tumour_VT: Tensor, truth: dict[str, Tensor], chosen: Tensor, words: dict[str, Tensor]
) -> Tensor:
    """Cross-entropies of modality, plane and tumour at every place T, with the tokens as long as words are."""
    loss = functional.cross_entropy(
        (SHARPNESS * cosines(tokens_VTD, words["tumour"])).flatten(0, 1), tumour_VT.flatten()
    )
    for kind in ("modality", "plane"):
        rated = SHARPNESS * cosines(tokens_VTD.mean(dim=1), words[kind])
        loss = loss + functional.cross_entropy(rated, truth[kind][chosen])
    length = words["modality"].norm(dim=-1).mean()
    return loss + NORM_WEIGHT * (tokens_VTD.norm(dim=-1) - length).square().mean()


def cosines(tokens: Tensor, words: Tensor) -> Tensor:
    """(..., D) and (words, D) -> (..., words)."""
    return functional.normalize(tokens, dim=-1) @ functional.normalize(words, dim=-1).T


def standardise(layer: nn.Linear, features_RC: Tensor) -> None:
    """Let a layer give for x what it gave for (x - mean) / std over R rows of C channels."""
    mean_C, std_C = features_RC.mean(dim=0), features_RC.std(dim=0).clamp(min=1e-3)
    layer.weight.div_(std_C)
    layer.bias.sub_(layer.weight @ mean_C)


def fit(loss_of, parameters: list[nn.Parameter], *, num: int, epochs: int) -> None:
    """AdamW over shuffled cubes, one cycle of the learning rate."""
    per_epoch = num // BATCH
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=epochs * per_epoch)
    for _ in range(epochs):
        total = 0.0
        for chosen in torch.randperm(num)[: per_epoch * BATCH].split(BATCH):
            loss = loss_of(chosen)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"stage 0: loss {total / per_epoch:.3f}", flush=True)
