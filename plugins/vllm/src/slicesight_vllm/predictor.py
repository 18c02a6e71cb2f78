"""How does a model in vLLM answer behind the package's own server? The same methods as `Predictor`, another engine.

vLLM's engine has the weights, the paged cache and the scheduling; scans are read, evidence is made and answers are
written by the package. N slices.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig
from vllm import SamplingParams
from vllm.sampling_params import MAX_LOGPROB_TOKEN_IDS
from vllm.v1.engine.llm_engine import LLMEngine

from slicesight.errors import InputError, ModelError
from slicesight.inference.choice_decoding import ChoiceTree
from slicesight.inference.encoded_scan import EncodedScan, Scan
from slicesight.inference.predictor import Predictor
from slicesight.inference.prompts import longest_text, text_config
from slicesight.inference.sampling import DEFAULT_TOP_K, GREEDY_BELOW, SAMPLING_OPTIONS
from slicesight.models.card import ModelCard
from slicesight.models.med2e3 import VolumeFeatures
from slicesight.volumes.grid import GridSpec
from slicesight_vllm.batching import EngineBatching
from slicesight_vllm.choices import choice_arguments
from slicesight_vllm.inputs import InputMaker, ScanInput, SlicesInput
from slicesight_vllm.worker import again_arguments, scan_arguments

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest

    from slicesight.inference.calibration.calibration import Calibration
    from slicesight.inference.calibration.likelihood import TokenRecord
    from slicesight.inference.embedding import EmbeddingSpace

NEVER = -100.0
"""Added to the logit of a token that is not to be said; the most that vLLM takes."""


@dataclass(eq=False)
class WorkerFeatures:
    """What the encoders make of a scan, as `VolumeFeatures`, fetched from the worker when a calibration reads it."""

    engine: LLMEngine
    item: ScanInput

    @cached_property
    def _tokens(self) -> list[Tensor | None]:
        found = self.engine.collective_rpc("scan_tokens", args=scan_arguments(self.item))[0]
        return [
            None if one is None else torch.from_numpy(np.frombuffer(one[0], np.float32).reshape(one[1]).copy())
            for one in found
        ]

    @property
    def tokens_3d_VKPD(self) -> Tensor | None:
        return self._tokens[0]

    @property
    def tokens_2d_VNLD(self) -> Tensor | None:
        return self._tokens[1]


@dataclass(frozen=True, kw_only=True)
class EngineScan(EncodedScan):
    """A scan on the grid; what the encoders make of it stays in vLLM's worker."""

    item: ScanInput

    @property
    def num_bytes(self) -> int:
        """Of the grid and of the copy that vLLM is sent."""
        return self.grid.voxels.nbytes + self.item.voxels.nbytes


@dataclass(frozen=True, kw_only=True)
class WorkerEmbeddings:
    """The part of a model that a calibration reads for questions: the embeddings of their tokens."""

    engine: LLMEngine
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def embed_tokens(self, ids_1T: Tensor) -> Tensor:
        """(1, T) -> (1, T, D)."""
        return torch.tensor(self.engine.collective_rpc("embed_tokens", args=(ids_1T[0].tolist(),))[0])[None]


class EnginePredictor(Predictor):
    """A model in vLLM, ready to be asked.

    Args:
        engine: holds the weights. maker: writes its inputs. generation: the model's own settings of generation.
        calibration: as of the package's own engine. adapter: beside the weights, for every question.
    """

    def __init__(
        self,
        *,
        engine: LLMEngine,
        maker: InputMaker,
        generation: GenerationConfig,
        card: ModelCard,
        calibration: Calibration | None = None,
        adapter: LoRARequest | None = None,
    ) -> None:
        self.engine, self.maker, self.generation, self.card = engine, maker, generation, card
        self.calibration, self.adapter = calibration, adapter
        self.model = WorkerEmbeddings(engine=engine)  # type: ignore[assignment]  # what a calibration reads of it
        self.grid_spec = GridSpec.from_dict(maker.grid)
        self.planes = tuple(maker.config.planes or ()) if maker.config.needs_2d else ()
        self.processor = maker.processor
        self.cache = None
        self._scheduler = None

    def encode(self, scan: Scan) -> EngineScan:
        """The scan as vLLM is sent it; arguments and errors as of `Predictor.encode`."""
        if isinstance(scan, EngineScan):
            return scan
        grid = self.as_grid(scan)
        item = self.maker.scan(grid)
        return EngineScan(grid=grid, item=item, features=cast(VolumeFeatures, WorkerFeatures(self.engine, item)))

    def embed(self, scan: Scan, *, space: EmbeddingSpace = "encoder") -> NoReturn:
        """Raises InputError: vectors are made by the package's own engine."""
        raise InputError(f"{self.card.name} in vLLM gives no vectors of a scan; load it in the package's own engine.")

    def batching(self, *, batch_size: int = 16) -> EngineBatching:  # type: ignore[override]  # the same methods
        """What answers the requests of many callers together."""
        return EngineBatching(self, batch_size=batch_size)

    def check_options(self, options: dict[str, Any]) -> None:
        """Raises InputError for an option of asking that vLLM is not given, or a number that is none."""
        for name, value in options.items():
            if name not in SAMPLING_OPTIONS:
                known = ", ".join(sorted(SAMPLING_OPTIONS))
                raise InputError(f"{name} is no option of asking with vLLM; expected one of {known}.")
            if name != "do_sample" and not isinstance(value, (int, float, type(None))):
                raise InputError(f"{name} is {value!r}; expected a number.")

    def make_sampler(self, options: dict[str, Any]) -> None:
        """vLLM draws for itself, by `sampling`."""

    @property
    def ends(self) -> frozenset[int]:
        """Tokens that end an answer."""
        found = self.generation.eos_token_id
        return frozenset([] if found is None else [found] if isinstance(found, int) else found)

    @staticmethod
    def is_too_long(record: TokenRecord | None) -> bool:
        """Whether choices have more different tokens than vLLM gives log-probabilities of; none are kept then."""
        return record is not None and record.tree is not None and len(tokens_of(record.tree)) > MAX_LOGPROB_TOKEN_IDS

    def sampling(
        self,
        options: dict[str, Any],
        *,
        number: int,
        max_new_tokens: int,
        choices: ChoiceTree | None = None,
        record: TokenRecord | None = None,
    ) -> SamplingParams:
        """How the answer to question `number` is drawn: the model's own settings with the caller's on top.

        Args:
            choices: that it is held to. record: of its likelihood, for which log-probabilities come back.
        """
        self.check_options(options)
        own = {name: getattr(self.generation, name, None) for name in SAMPLING_OPTIONS - {"seed"}}
        merged = {**own, **{name: value for name, value in options.items() if value is not None}}
        temperature = float(1.0 if merged.get("temperature") is None else merged["temperature"])
        settings: dict[str, Any] = {
            "max_tokens": max_new_tokens,
            "detokenize": False,
            "ignore_eos": True,  # vLLM's own guess; these are the model's
            "stop_token_ids": sorted(self.ends),
            "logit_bias": dict.fromkeys(self.generation.suppress_tokens or (), NEVER) or None,
            "extra_args": None if choices is None else choice_arguments(choices),
            **({} if record is None else wanted_logs(record)),
        }
        if not merged.get("do_sample") or temperature < GREEDY_BELOW:
            return SamplingParams(temperature=0.0, **settings)
        return SamplingParams(
            temperature=temperature,
            top_k=(DEFAULT_TOP_K if merged.get("top_k") is None else int(merged["top_k"])) or -1,
            top_p=1.0 if merged.get("top_p") is None else float(merged["top_p"]),
            seed=None if merged.get("seed") is None else int(merged["seed"]) + number,
            **settings,
        )

    @property
    def num_words(self) -> int:
        """Tokens of the language model's vocabulary."""
        return int(text_config(self.maker.config).vocab_size)

    @property
    def longest_text(self) -> int | None:
        """Tokens of the longest prompt with its answer: the model's, or what vLLM was started with."""
        own, engine = longest_text(self.maker.config), int(self.engine.model_config.max_model_len)
        return engine if own is None else min(own, engine)

    def slice_scores(self, asked: Sequence[SlicesInput]) -> list[list[float]]:
        """The slice scores (N,) of each pair of scan and question; encoded anew where they are no longer kept."""
        if not asked:
            return []
        (found,) = self.engine.collective_rpc("slice_scores", args=([one.key for one in asked],))[:1]
        return [
            self._score_again(one) if scores is None else list(scores) for one, scores in zip(asked, found, strict=True)
        ]

    def _score_again(self, asked: SlicesInput) -> list[float]:
        return list(self.engine.collective_rpc("score_again", args=again_arguments(asked))[0])

    def count_encoded(self) -> int:
        """How often the encoders ran."""
        return int(self.engine.collective_rpc("count_encoded")[0])

    def digest(self) -> str:
        """SHA-256 of the folder's weights, configuration and processor settings, and of the engine's arithmetic."""
        digest = hashlib.sha256(f"vllm {self.engine.model_config.dtype}".encode())
        folders = [self.engine.model_config.model, *([] if self.adapter is None else [self.adapter.lora_path])]
        for path in (path for folder in folders for path in sorted(Path(folder).glob("*"))):
            if path.suffix in (".json", ".safetensors"):
                digest.update(path.name.encode() + path.read_bytes())
        return digest.hexdigest()

    def close(self) -> None:
        """End vLLM's processes."""
        self.engine.engine_core.shutdown()

    def __getstate__(self) -> dict[str, Any]:
        """Raises ModelError: vLLM's engine belongs to this process."""
        raise ModelError(f"{self.card.name}: a model in vLLM cannot be pickled; load it in the other process.")


def wanted_logs(record: TokenRecord) -> dict[str, Any]:
    """The settings by which vLLM gives the log-probabilities that a record reads: of the token said and, for a closed
    question, of every token of its choices."""
    return {"logprobs": 0} if record.tree is None else {"logprob_token_ids": tokens_of(record.tree)}


def tokens_of(tree: ChoiceTree) -> list[int]:
    """Every token that a choice, or the end of an answer, is made of."""
    return sorted({*tree.ends, *(token for sequence in tree.sequences for token in sequence)})
