"""Which prompts share a row of the language model, and what does it save?

A volume's questions all begin with the prompt's head and z_3D, which no question changes (eq. 8: z_I = [z_3D ; z_2D],
and only z_2D is weighed by the question). That beginning of p tokens runs once for q questions, their own s tokens each
behind it: p + q s tokens instead of q (p + s). Rows are padded to the longest, and attention, dense under its mask,
costs (p + q s)^2 pairs instead of q (p + s)^2: the rows have the length that costs least (`plan_rows`).
B prompts of T tokens, M volumes per prompt, R rows of U tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from slicesight.errors import ModelError
from slicesight.models.med2e3 import Med2E3ForConditionalGeneration
from slicesight.models.med2e3.loss import IGNORED
from slicesight.models.med2e3.matching import count_shared_visual_tokens
from slicesight.models.med2e3.packed import PADDING, pack

HEAD_LENGTH, REST_LENGTHS = 3, (2, 3)
NUM_LENGTHS = 12
Group = tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Operations of the language model's layers in one forward pass: per token, and per pair that attend."""

    per_token: float
    per_pair: float

    def count(self, rows: int, length: int) -> float:
        """Of `rows` sequences of `length` tokens, padding included: it is multiplied like any token."""
        return rows * (self.per_token * length + self.per_pair * length**2)


@dataclass(frozen=True, kw_only=True)
class Rows:
    """places and parts (R, U) as model/packed.py defines them; saved: the share of the language model's operations."""

    places: Tensor
    parts: Tensor
    saved: float


class PackingCollator:
    """A collator whose batches also say how their prompts share rows.

    saved: the mean share of the language model's operations that packing saved in the batches so far.
    """

    def __init__(
        self, collate: Callable[[list[Any]], dict[str, Tensor]], model: Med2E3ForConditionalGeneration
    ) -> None:
        self.collate, self.cost = collate, measure_cost(model.language_model)
        self.placeholder = model.config.placeholder_token_id
        self.num_shared = count_shared_visual_tokens(model.config, training=True)
        self.saved, self.num_batches = 0.0, 0

    def __call__(self, items: list[Any]) -> dict[str, Tensor]:
        batch = self.collate(items)
        inputs = (batch[name] for name in ("input_ids", "attention_mask", "labels", "volume_index"))
        rows = plan_rows(*inputs, placeholder=self.placeholder, num_shared=self.num_shared, cost=self.cost)
        self.num_batches += 1
        self.saved += (rows.saved - self.saved) / self.num_batches
        return {**batch, "packed_places": rows.places, "packed_parts": rows.parts}


def plan_rows(
    input_ids_BT: Tensor,
    attention_mask_BT: Tensor,
    labels_BT: Tensor,
    volume_index_BM: Tensor,
    *,
    placeholder: int,
    num_shared: int,
    cost: Cost,
) -> Rows:
    """Put the prompts that begin alike into rows.

    Args:
        num_shared: visual tokens of a volume that no question changes (z_3D). A prompt shares what lies before its
            first volume and those, but no token whose successor is supervised: each prompt predicts its own.
        cost: decides how long the rows are.
    """
    lengths = attention_mask_BT.sum(dim=-1).tolist()
    assert bool((attention_mask_BT[:, 1:] <= attention_mask_BT[:, :-1]).all()), "prompts are padded on the right"
    groups: dict[Group, list[int]] = {}
    shared = []
    for prompt, ids in enumerate(input_ids_BT.tolist()):
        first = ids.index(placeholder) if placeholder in ids else 0
        supervised = (labels_BT[prompt] != IGNORED).nonzero()
        limit = int(supervised[0]) - 1 if len(supervised) else lengths[prompt] - 1
        shared.append(max(0, min(first + num_shared if placeholder in ids else 0, limit)))
        groups.setdefault((*volume_index_BM[prompt].tolist(), *ids[: first + num_shared]), []).append(prompt)
    width = input_ids_BT.shape[1]
    heads = {group: min(shared[prompt] for prompt in prompts) for group, prompts in groups.items()}
    rests = {prompt: lengths[prompt] - heads[group] for group, prompts in groups.items() for prompt in prompts}
    plans = [
        [(heads[group], row) for group in groups for row in fill_rows(groups[group], rests, limit - heads[group])]
        for limit in row_lengths(heads, groups, rests)
    ]

    def price(plan: list[tuple[int, list[int]]]) -> float:
        return cost.count(len(plan), max(head + sum(rests[prompt] for prompt in row) for head, row in plan))

    rows = [_row(prompts, head, lengths, width) for head, prompts in min(plans, key=price)]
    longest = max(len(places) for places, _ in rows)
    padded = [[(values + [PADDING] * (longest - len(values))) for values in row] for row in rows]
    before, after = cost.count(len(lengths), width), cost.count(len(rows), longest)
    places, parts = (torch.tensor([row[part] for row in padded], device=input_ids_BT.device) for part in (0, 1))
    return Rows(places=places, parts=parts, saved=1 - after / before)


def row_lengths(
    heads: Mapping[Group, int], groups: Mapping[Group, Sequence[int]], rests: Mapping[int, int]
) -> list[int]:
    """Lengths to try, from the longest prompt to the longest group in one row."""
    shortest = max(heads[group] + rests[prompt] for group in groups for prompt in groups[group])
    longest = max(heads[group] + sum(rests[prompt] for prompt in groups[group]) for group in groups)
    return sorted({round(shortest * (longest / shortest) ** (step / NUM_LENGTHS)) for step in range(NUM_LENGTHS + 1)})


def fill_rows(prompts: Sequence[int], rests: Mapping[int, int], limit: int) -> list[list[int]]:
    """Deal prompts into rows of at most `limit` tokens, the longest first, each into the first row with room."""
    rows: list[list[int]] = []
    for prompt in sorted(prompts, key=lambda prompt: -rests[prompt]):
        for row in rows:
            if sum(rests[other] for other in row) + rests[prompt] <= limit:
                row.append(prompt)
                break
        else:
            rows.append([prompt])
    return [sorted(row) for row in rows]


def _row(prompts: list[int], head: int, lengths: list[int], width: int) -> tuple[list[int], list[int]]:
    places, parts = [prompts[0] * width + position for position in range(head)], [0] * head
    for part, prompt in enumerate(prompts, start=1):
        places += [prompt * width + position for position in range(head, lengths[prompt])]
        parts += [part] * (lengths[prompt] - head)
    return places, parts


def measure_cost(language_model: Any) -> Cost:
    """Operations per token and per pair of tokens, from the decoder's matrices and its configuration."""
    config: Any = language_model.config
    layers = [layer for layer in language_model.get_decoder().modules() if not isinstance(layer, nn.Embedding)]
    weights = sum(p.numel() for layer in layers for p in layer.parameters(recurse=False) if p.ndim == 2)
    head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    pairs = 4.0 * config.num_hidden_layers * config.num_attention_heads * head_width
    return Cost(per_token=2.0 * weights, per_pair=pairs)


@torch.no_grad()
def prove_packing(model: Med2E3ForConditionalGeneration) -> None:
    """Run two short prompts apart and in one row through the language model and compare.

    Raises ModelError where it computes something else for them in a row: packing would train another model unseen.
    """
    language_model, was_training = model.language_model, model.language_model.training
    if not model.takes_position_ids:
        raise ModelError(f"packing restarts positions, which {type(language_model).__name__} cannot be told.")
    embed: Any = model.get_input_embeddings()
    embedding: Tensor = embed.weight
    generator = torch.Generator().manual_seed(0)
    length = HEAD_LENGTH + max(REST_LENGTHS)
    ids = torch.randint(embedding.shape[0], (2, length), generator=generator).to(embedding.device)
    ids[:, :HEAD_LENGTH] = ids[0, :HEAD_LENGTH]
    embeds = embed(ids)
    rows = [_row([0, 1], HEAD_LENGTH, [HEAD_LENGTH + rest for rest in REST_LENGTHS], length)]
    places, parts = (torch.tensor([row[part] for row in rows], device=ids.device) for part in (0, 1))
    language_model.eval()
    packed = pack(language_model, embeds, None, places, parts)
    del packed["labels"]
    together = language_model(**packed).logits[0]
    positions = torch.arange(length, device=ids.device).expand(2, -1)
    mask = torch.ones_like(ids)
    apart = language_model(inputs_embeds=embeds, attention_mask=mask, position_ids=positions).logits
    language_model.train(was_training)
    difference = (together - apart.flatten(0, 1)[places[0]]).abs().max().item()
    allowed = 50 * torch.finfo(together.dtype).eps * max(1.0, apart.abs().max().item())
    if not difference <= allowed:
        raise ModelError(
            f"packing changes what {language_model.config.model_type} computes (logits differ by {difference:.2g}); "
            f"train without packing."
        )
