"""BERTScore: how well do the contextual embeddings of two texts' tokens match? (Zhang et al. 2020; no idf or rescaling)

P = mean over said tokens of the best cosine to a true token, R the other way round, F = 2PR / (P + R). Opening and
closing tokens can be matched but are not averaged over. T tokens, D width. Same numbers as the package bert-score;
computed here because that one fails on an empty text with today's transformers and encodes a repeated text again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slicesight.evaluation.metrics import MetricOptions, MissingPartError, TextMetric

USUAL_LAYERS = {
    "roberta-large": 17,
    "roberta-base": 10,
    "bert-base-uncased": 9,
    "bert-large-uncased": 18,
    "distilbert-base-uncased": 5,
    "distilroberta-base": 5,
    "microsoft/deberta-base-mnli": 9,
    "microsoft/deberta-large-mnli": 18,
    "microsoft/deberta-xlarge-mnli": 40,
}
"""The layer that bert-score takes of each model; any other model gives its last one."""
NO_MODEL = "no model named; --bertscore roberta-large (the papers' own) or a model folder"
PUBLISHED = ("roberta-large", 17)
TOKENS_PER_BATCH = 4096
PAIRS_PER_BLOCK = 512
LONGEST = 512


def load_bertscore(options: MetricOptions) -> TextMetric:
    """BERTScore, where a model is named and here."""
    if options.bertscore is None:
        raise MissingPartError(NO_MODEL)
    scorer = BertScorer.load(options.bertscore, layer=options.layer)
    return TextMetric(score=scorer.score, about=scorer.about)


class BertScorer:
    """A model cut off after one layer, with its tokenizer."""

    def __init__(self, *, model: Any, tokenizer: Any, name: str, layer: int, max_tokens: int) -> None:
        self.model, self.tokenizer, self.name, self.layer, self.max_tokens = model, tokenizer, name, layer, max_tokens
        self.unaveraged = {tokenizer.cls_token_id, tokenizer.sep_token_id}

    @staticmethod
    @lru_cache(maxsize=2)
    def load(name: str, *, layer: int | None = None) -> BertScorer:
        """The scorer of a model by name or folder, loaded once.

        Raises:
            MissingPartError: the model is not on this machine, or its layers cannot be cut.
        """
        import torch
        from transformers import AutoModel, AutoTokenizer

        from slicesight.models.library_fetch import fetched

        if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
            raise MissingPartError(f"BERTScore's model {name}: no config.json in that folder; name a model folder")
        try:
            tokenizer = AutoTokenizer.from_pretrained(name)
            model = fetched(lambda: AutoModel.from_pretrained(name, dtype=torch.float32), name=name)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0][:160]
            raise MissingPartError(
                f"BERTScore's model {name} cannot be loaded ({reason}); name a folder with --bertscore, or load it "
                "once where there is a network"
            ) from error
        wanted = USUAL_LAYERS.get(name.removeprefix("FacebookAI/")) if layer is None else layer
        kept = _cut(model, wanted, name=name)
        model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
        positions = getattr(model.config, "max_position_embeddings", LONGEST + 2)
        room = positions - 2 if model.config.model_type in ("roberta", "xlm-roberta", "camembert") else positions
        return BertScorer(
            model=model, tokenizer=tokenizer, name=name, layer=kept, max_tokens=min(tokenizer.model_max_length, room)
        )

    @property
    def about(self) -> dict[str, Any]:
        """What must stand beside a BERTScore: model, layer, versions, and what it may be compared with."""
        is_published = (Path(self.name).name, self.layer) == PUBLISHED
        note = "not comparable with published BERTScore, which is roberta-large, layer 17"
        note = "as published" if is_published else note
        facts = {"model": self.name, "layer": self.layer, "comparable_with_published": is_published, "note": note}
        return facts | {name: version(name) for name in ("torch", "transformers", "tokenizers")}

    def score(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float64]:
        """F of every (said, true) pair; 0 where either is empty. Equal pairs and equal texts are computed once."""
        unique = sorted({pair for pair in pairs if pair[0].strip() and pair[1].strip()}, key=lambda pair: pair[::-1])
        known = {}
        for start in range(0, len(unique), PAIRS_PER_BLOCK):
            block = unique[start : start + PAIRS_PER_BLOCK]
            embedded = self._embed({text for pair in block for text in pair})
            for said, true in block:
                known[said, true] = _match(*embedded[said], *embedded[true])
        return np.array([known.get(pair, 0.0) for pair in pairs], dtype=np.float64)

    def _embed(self, texts: set[str]) -> dict[str, tuple[Any, Any]]:
        """Unit embeddings (T, D) of every text and which of its tokens are averaged over (T,)."""
        import torch
        from torch.nn import functional

        ids = {text: self._encode(text) for text in texts}
        found = {}
        for batch in _batches(sorted(texts, key=lambda text: (len(ids[text]), text)), ids):
            longest = max(len(ids[text]) for text in batch)
            filler = self.tokenizer.pad_token_id or 0
            input_ids = torch.tensor([[*ids[text], *[filler] * (longest - len(ids[text]))] for text in batch])
            mask = torch.arange(longest) < torch.tensor([[len(ids[text])] for text in batch])
            device = self.model.device
            with torch.inference_mode():
                out = self.model(input_ids.to(device), attention_mask=None if mask.all() else mask.long().to(device))
            unit = functional.normalize(out[0].float(), dim=-1).cpu()
            for row, text in enumerate(batch):
                averaged = torch.tensor([token not in self.unaveraged for token in ids[text]], dtype=torch.float32)
                found[text] = unit[row, : len(ids[text])], averaged
        return found

    def _encode(self, text: str) -> list[int]:
        spaced = " " + text.strip() if _spells_spaces(self.tokenizer) else text.strip()
        ids: list[int] = self.tokenizer(spaced, truncation=True, max_length=self.max_tokens)["input_ids"]
        return ids


def _match(said_TD: Any, said_averaged_T: Any, true_TD: Any, true_averaged_T: Any) -> float:
    if said_averaged_T.sum() == 0 or true_averaged_T.sum() == 0:
        return 0.0
    cosine = said_TD @ true_TD.T
    precision = (cosine.max(dim=1).values * said_averaged_T).sum() / said_averaged_T.sum()
    recall = (cosine.max(dim=0).values * true_averaged_T).sum() / true_averaged_T.sum()
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def _batches(texts: Sequence[str], ids: dict[str, list[int]]) -> Iterator[list[str]]:
    """Texts sorted by length in batches of about TOKENS_PER_BATCH tokens."""
    batch: list[str] = []
    for text in texts:
        if batch and len(ids[text]) * (len(batch) + 1) > TOKENS_PER_BATCH:
            yield batch
            batch = []
        batch.append(text)
    yield batch


def _spells_spaces(tokenizer: Any) -> bool:
    """RoBERTa's and GPT-2's byte-level vocabularies, where the first word too must begin with a space."""
    return type(tokenizer).__name__.removesuffix("Fast") in ("RobertaTokenizer", "GPT2Tokenizer")


def _cut(model: Any, layer: int | None, *, name: str) -> int:
    """Drop the layers after `layer` (all are kept for None); returns how many are left."""
    from torch.nn import ModuleList

    body = getattr(model, "encoder", None) or getattr(model, "transformer", None) or model
    holder = next((attribute for attribute in ("layer", "layers", "block") if hasattr(body, attribute)), None)
    if holder is None:
        raise MissingPartError(f"BERTScore's model {name} ({type(model).__name__}) has no list of layers; name a BERT")
    layers = getattr(body, holder)
    kept = len(layers) if layer is None else layer
    if not 0 < kept <= len(layers):
        raise MissingPartError(
            f"BERTScore's model {name} has {len(layers)} layers, not {kept}; change --bertscore-layer"
        )
    setattr(body, holder, ModuleList(layers[:kept]))
    return kept
