"""Med-2E3 in Hugging Face shape; importing this package registers it with the Auto classes."""

from slicesight.models.encoders3d.configuration import (
    CNN3DConfig,
    M3DViTConfig,
    MonaiViTConfig,
    SwinUNETRConfig,
    Vision3DConfig,
)
from slicesight.models.med2e3.collator import Med2E3Collator
from slicesight.models.med2e3.configuration import Med2E3Config
from slicesight.models.med2e3.modeling import Med2E3ForConditionalGeneration
from slicesight.models.med2e3.pretrained import Med2E3Output
from slicesight.models.med2e3.processing import Med2E3Processor
from slicesight.models.med2e3.prompt_templates import TEMPLATES, PromptTemplate
from slicesight.models.med2e3.slice_scorer import VolumeFeatures

__all__ = [
    "TEMPLATES",
    "CNN3DConfig",
    "M3DViTConfig",
    "Med2E3Collator",
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
