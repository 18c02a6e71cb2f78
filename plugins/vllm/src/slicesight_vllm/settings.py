"""Which of vLLM's settings follow from the model? How prompts are written, and how long they may be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm.logger import init_logger
from vllm.model_executor.models.config import VerifyAndUpdateConfig

from slicesight_vllm import TOKENIZER_MODE

if TYPE_CHECKING:
    from vllm.config import ModelConfig, VllmConfig

logger = init_logger(__name__)


class Med2E3Settings(VerifyAndUpdateConfig):
    """Called by vLLM while it makes its configuration."""

    @staticmethod
    def verify_and_update_model_config(model_config: ModelConfig) -> None:
        """Prompts are written by the model's own processor, not by rendering a template and tokenising the text.

        A language model with two sets of rotary factors (Phi-3 128k) takes the ones for long texts in vLLM whenever
        long texts are allowed, in transformers for long texts only. Unless a length is asked for, none longer are.
        """
        if model_config.tokenizer_mode in ("auto", "hf"):
            model_config.tokenizer_mode = TOKENIZER_MODE
        limit = longest_with_short_factors(model_config.hf_text_config)
        asked = model_config.original_max_model_len
        if limit is None or model_config.max_model_len <= limit:
            return
        if asked is None or asked < 0:
            model_config.max_model_len = limit
        else:
            logger.warning(
                "max_model_len %d is more than %d: vLLM then uses the rotary factors for long texts in short ones too, "
                "and answers may differ from those of slicesight's own engine.",
                *(asked, limit),
            )

    @staticmethod
    def verify_and_update_config(vllm_config: VllmConfig) -> None:
        """Workers can be asked for slice scores."""
        if not vllm_config.parallel_config.worker_extension_cls:
            vllm_config.parallel_config.worker_extension_cls = "slicesight_vllm.worker.ScoreReader"


def longest_with_short_factors(text_config: Any) -> int | None:
    """Tokens up to which a model of two sets of rotary factors uses the first; None for any other."""
    rope = getattr(text_config, "rope_parameters", None) or {}
    if rope.get("rope_type") != "longrope":
        return None
    found = rope.get("original_max_position_embeddings") or getattr(text_config, "original_max_position_embeddings", 0)
    return int(found) or None
