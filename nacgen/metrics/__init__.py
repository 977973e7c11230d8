"""What generated images are worth: feature extractors, streaming statistics, scores."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nacgen.metrics.callables import CallableExtractor as CallableExtractor
    from nacgen.metrics.dinov2 import DINOv2Extractor as DINOv2Extractor
    from nacgen.metrics.evaluation import evaluate as evaluate
    from nacgen.metrics.extractors import ClassifierExtractor as ClassifierExtractor
    from nacgen.metrics.extractors import EncoderExtractor as EncoderExtractor
    from nacgen.metrics.extractors import FeatureExtractor as FeatureExtractor
    from nacgen.metrics.extractors import Features as Features
    from nacgen.metrics.extractors import build_extractor as build_extractor
    from nacgen.metrics.inception import InceptionExtractor as InceptionExtractor
    from nacgen.metrics.quantisation import to_uint8 as to_uint8
    from nacgen.metrics.reference import ReferenceStatistics as ReferenceStatistics
    from nacgen.metrics.result import EvaluationProtocol as EvaluationProtocol
    from nacgen.metrics.result import EvaluationResult as EvaluationResult
    from nacgen.metrics.result import MetricSettings as MetricSettings
    from nacgen.metrics.result import Score as Score
    from nacgen.metrics.statistics import GaussianStats as GaussianStats
    from nacgen.metrics.statistics import StatsAccumulator as StatsAccumulator

_HOMES = {
    "CallableExtractor": "callables",
    "ClassifierExtractor": "extractors",
    "DINOv2Extractor": "dinov2",
    "EncoderExtractor": "extractors",
    "EvaluationProtocol": "result",
    "EvaluationResult": "result",
    "FeatureExtractor": "extractors",
    "Features": "extractors",
    "GaussianStats": "statistics",
    "InceptionExtractor": "inception",
    "MetricSettings": "result",
    "ReferenceStatistics": "reference",
    "Score": "result",
    "StatsAccumulator": "statistics",
    "build_extractor": "extractors",
    "evaluate": "evaluation",
    "to_uint8": "quantisation",
}

__all__ = [
    "CallableExtractor",
    "ClassifierExtractor",
    "DINOv2Extractor",
    "EncoderExtractor",
    "EvaluationProtocol",
    "EvaluationResult",
    "FeatureExtractor",
    "Features",
    "GaussianStats",
    "InceptionExtractor",
    "MetricSettings",
    "ReferenceStatistics",
    "Score",
    "StatsAccumulator",
    "build_extractor",
    "evaluate",
    "to_uint8",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'nacgen.metrics' has no attribute {name!r}")
    return getattr(import_module(f"nacgen.metrics.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
