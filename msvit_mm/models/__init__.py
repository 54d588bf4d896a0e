"""Backbones, gates, gate losses and the models around them."""

from .classifier import GatedImageClassifier
from .gates import BaseGate, EdgeGate, FixedGate, RandomGate, ScaleGate, StaticGate, build_gate
from .losses import BatchShapingLoss, BetaShapingLoss, BoundaryGateLoss, RatioLoss
from .mask_transformer import MixedScaleMaskTransformerHead
from .msvit import GateOutput, MSViT
from .segmentor import GatedEncoderDecoder, GatedSegTTAModel

__all__ = [
    'BaseGate',
    'BatchShapingLoss',
    'BetaShapingLoss',
    'BoundaryGateLoss',
    'EdgeGate',
    'FixedGate',
    'GateOutput',
    'GatedEncoderDecoder',
    'GatedImageClassifier',
    'GatedSegTTAModel',
    'MSViT',
    'MixedScaleMaskTransformerHead',
    'RandomGate',
    'RatioLoss',
    'ScaleGate',
    'StaticGate',
    'build_gate',
]
