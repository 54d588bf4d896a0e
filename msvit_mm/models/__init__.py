"""Models over gated backbones: the hosts' segmentors, classifiers and detectors with the gate's loss and choices."""

from .classifier import GatedImageClassifier
from .gated import GatedModel
from .heads import MixedScaleMaskTransformerHead
from .memory import ImageMemoryError
from .pyramid import SimpleFeaturePyramid
from .segmentor import GatedEncoderDecoder, GatedSegTTAModel

__all__ = [
    'GatedEncoderDecoder',
    'GatedImageClassifier',
    'GatedModel',
    'GatedSegTTAModel',
    'ImageMemoryError',
    'MixedScaleMaskTransformerHead',
    'SimpleFeaturePyramid',
]
