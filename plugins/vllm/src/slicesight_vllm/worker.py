"""How are slice scores asked of the worker that holds the model? Methods that vLLM adds to its worker.

vLLM takes this class by its setting worker_extension_cls; `collective_rpc("slice_scores", args=(keys,))` calls it.
"""

from __future__ import annotations

from typing import Any

import torch

from slicesight_vllm.inputs import SlicesInput


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
                    torch.frombuffer(bytearray(voxels), dtype=torch.float32)
                    .reshape(shape)
                    .to(self.model_runner.device),
                    scan_key,
                    scores_key,
                    torch.tensor(question_ids, dtype=torch.long, device=self.model_runner.device),
                    torch.tensor(encoder_ids, dtype=torch.long, device=self.model_runner.device),
                )[1]
            )


def again_arguments(asked: SlicesInput) -> tuple[Any, ...]:
    """What `score_again` takes for this scan and question; plain values, which any way to a worker carries."""
    voxels = asked.scan.voxels
    return (
        voxels.numpy().tobytes(),
        list(voxels.shape),
        asked.scan.key,
        asked.key,
        list(asked.question_ids),
        list(asked.encoder_ids),
    )
