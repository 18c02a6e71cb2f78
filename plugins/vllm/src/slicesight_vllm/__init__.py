"""What does vLLM have to know so that it can load a folder with a Med-2E3? One call in each of its processes.

vLLM calls `register` through the entry point group "vllm.general_plugins", possibly more than once. Models are named by
strings, so that nothing here touches a GPU.
"""

from __future__ import annotations

__version__ = "0.1.0"

ARCHITECTURE = "Med2E3ForConditionalGeneration"
TOKENIZER_MODE = "slicesight"


def register() -> None:
    """Make the configuration, the model and the way its prompts are written known to vLLM."""
    from vllm import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP
    from vllm.renderers.registry import RENDERER_REGISTRY
    from vllm.tokenizers.registry import TokenizerRegistry

    import slicesight.models.med2e3.configuration  # noqa: F401  # known to AutoConfig from now on
    from slicesight_vllm.settings import Med2E3Settings

    if ARCHITECTURE not in ModelRegistry.get_supported_archs():
        ModelRegistry.register_model(ARCHITECTURE, f"slicesight_vllm.model:{ARCHITECTURE}")
    if TOKENIZER_MODE not in RENDERER_REGISTRY.renderers:
        RENDERER_REGISTRY.register(TOKENIZER_MODE, "slicesight_vllm.renderer", "Med2E3Renderer")
        TokenizerRegistry.register(TOKENIZER_MODE, *TokenizerRegistry.tokenizers["hf"])
    MODELS_CONFIG_MAP.setdefault(ARCHITECTURE, Med2E3Settings)
