"""What is asked of the worker that holds the model, beside tokens? Methods that vLLM adds to its worker.

vLLM takes this class by its setting worker_extension_cls; `collective_rpc("slice_scores", args=(keys,))` calls it. What
goes in and comes out are plain values, which any way to a worker carries.
"""

from __future__ import annotations

from typing import Any

import torch

from slicesight_vllm.inputs import ScanInput, SlicesInput


class ScoreReader:
    """Added to vLLM's worker."""

    model_runner: Any

    def slice_scores(self, keys: list[str]) -> list[list[float] | None]:
        """The slice scores of each pair of scan and question; None where they are no longer kept."""
        features = self.model_runner.get_model().scan_features
        return [features.scores(key) for key in keys]

    def count_encoded(self) -> int:
        """How often this worker ran the encoders."""
        return int(self.model_runner.get_model().scan_features.num_encoded)

    def scan_tokens(self, voxels: bytes, shape: list[int], scan_key: str) -> list[tuple[bytes, list[int]] | None]:
        """A scan's 3D tokens and its slices' (None for a model without): float32 bytes and their shape."""
        model = self.model_runner.get_model()
        with torch.inference_mode():
            found = model.features(scan_key, self._tensor(voxels, shape))
        return [
            None if tokens is None else (tokens.float().cpu().contiguous().numpy().tobytes(), list(tokens.shape))
            for tokens in (found.tokens_3d_VKPD, found.tokens_2d_VNLD)
        ]

    def embed_tokens(self, token_ids: list[int]) -> list[list[float]]:
        """The language model's own embeddings of these tokens."""
        with torch.inference_mode():
            ids_T = torch.tensor(token_ids, dtype=torch.long, device=self.model_runner.device)
            found: list[list[float]] = (
                self.model_runner.get_model().language_model.embed_input_ids(ids_T).float().cpu().tolist()
            )
        return found

    def _tensor(self, voxels: bytes, shape: list[int]) -> torch.Tensor:
        return torch.frombuffer(bytearray(voxels), dtype=torch.float32).reshape(shape).to(self.model_runner.device)

    def score_again(
        self,
        voxels: bytes,
        shape: list[int],
        scan_key: str,
        scores_key: str,
        question_ids: list[int],
        encoder_ids: list[int],
    ) -> list[float]:
        """The same for a pair that is no longer kept; voxels: float32 of this shape."""
        model = self.model_runner.get_model()
        with torch.inference_mode():
            return list(
                model.score(
                    self._tensor(voxels, shape),
                    scan_key,
                    scores_key,
                    torch.tensor(question_ids, dtype=torch.long, device=self.model_runner.device),
                    torch.tensor(encoder_ids, dtype=torch.long, device=self.model_runner.device),
                )[1]
            )


def scan_arguments(scan: ScanInput) -> tuple[Any, ...]:
    """What `scan_tokens` takes for this scan."""
    return scan.voxels.numpy().tobytes(), list(scan.voxels.shape), scan.key


def again_arguments(asked: SlicesInput) -> tuple[Any, ...]:
    """What `score_again` takes for this scan and question."""
    return *scan_arguments(asked.scan), asked.key, list(asked.question_ids), list(asked.encoder_ids)
