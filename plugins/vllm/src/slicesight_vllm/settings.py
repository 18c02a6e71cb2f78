"""Which of vLLM's settings follow from the model? The way prompts are written, and a KV block that fits a prefix."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm.model_executor.models.config import VerifyAndUpdateConfig

from slicesight_vllm import TOKENIZER_MODE

if TYPE_CHECKING:
    from vllm.config import ModelConfig, VllmConfig


class Med2E3Settings(VerifyAndUpdateConfig):
    """Called by vLLM while it makes its configuration."""

    @staticmethod
    def verify_and_update_model_config(model_config: ModelConfig) -> None:
        """Prompts are written by the model's own processor, not by rendering a template and tokenising the text."""
        if model_config.tokenizer_mode in ("auto", "hf"):
            model_config.tokenizer_mode = TOKENIZER_MODE

    @staticmethod
    def verify_and_update_config(vllm_config: VllmConfig) -> None:
        """Workers can be asked for slice scores."""
        if not vllm_config.parallel_config.worker_extension_cls:
            vllm_config.parallel_config.worker_extension_cls = "slicesight_vllm.worker.ScoreReader"
