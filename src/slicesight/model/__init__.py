"""Med-2E3 in Hugging Face shape; importing this package registers it with the Auto classes."""

from slicesight.model.configuration import (
    CNN3DConfig,
    M3DViTConfig,
    Med2E3Config,
    MonaiViTConfig,
    SwinUNETRConfig,
    Vision3DConfig,
)
from slicesight.model.modeling import Med2E3ForConditionalGeneration, Med2E3Output
from slicesight.model.processing import TEMPLATES, Med2E3Processor, PromptTemplate
from slicesight.model.scoring import VolumeFeatures

__all__ = [
    "TEMPLATES",
    "CNN3DConfig",
    "M3DViTConfig",
    "Med2E3Config",
    "Med2E3ForConditionalGeneration",
    "Med2E3Output",
    "Med2E3Processor",
    "MonaiViTConfig",
    "PromptTemplate",
    "SwinUNETRConfig",
    "Vision3DConfig",
    "VolumeFeatures",
]
