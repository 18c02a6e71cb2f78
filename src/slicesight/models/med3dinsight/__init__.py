"""Med3DInsight in Hugging Face shape; importing this package registers its networks with the Auto classes."""

from slicesight.models.med3dinsight.modeling import Classifier, InsightConfig, InsightModel, Segmenter
from slicesight.models.med3dinsight.preparation import Preparation
from slicesight.models.med3dinsight.pretraining import PretrainingModel

__all__ = ["Classifier", "InsightConfig", "InsightModel", "Preparation", "PretrainingModel", "Segmenter"]
