"""Med3DInsight in Hugging Face shape; importing this package registers its networks with the Auto classes."""

from slicesight.models.med3dinsight.classifier import Classifier
from slicesight.models.med3dinsight.modeling import InsightConfig, InsightModel
from slicesight.models.med3dinsight.preparation import Preparation
from slicesight.models.med3dinsight.pretraining import PretrainingModel
from slicesight.models.med3dinsight.segmenter import Segmenter

__all__ = ["Classifier", "InsightConfig", "InsightModel", "Preparation", "PretrainingModel", "Segmenter"]
