"""How are slice scores asked of the worker that holds the model? Methods that vLLM adds to its worker.

vLLM takes this class by its setting worker_extension_cls; `collective_rpc("slice_scores", args=(keys,))` calls it.
"""

from __future__ import annotations

from typing import Any


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
