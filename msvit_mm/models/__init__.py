"""Backbones, gates, gate losses and the models around them."""

from .classifier import GatedImageClassifier
from .gates import BaseGate, EdgeGate, FixedGate, RandomGate, ScaleGate, StaticGate, build_gate, gate_replaced
from .losses import BatchShapingLoss, BetaShapingLoss, RatioLoss
from .msvit import GateOutput, MSViT
from .segmentor import GatedEncoderDecoder, GatedSegTTAModel

__all__ = [
    'BaseGate',
    'BatchShapingLoss',
    'BetaShapingLoss',
    'EdgeGate',
    'FixedGate',
    'GateOutput',
    'GatedEncoderDecoder',
    'GatedImageClassifier',
    'GatedSegTTAModel',
    'MSViT',
    'RandomGate',
    'RatioLoss',
    'ScaleGate',
    'StaticGate',
    'build_gate',
    'gate_replaced',
]
