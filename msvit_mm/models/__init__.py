"""Backbones, gates, gate losses and the models around them."""

from .choices import gate_replaced
from .classifier import GatedImageClassifier
from .gates import BaseGate, EdgeGate, FixedGate, RandomGate, ScaleGate, StaticGate, build_gate
from .losses import BatchShapingLoss, BetaShapingLoss, BoundaryGateLoss, BudgetLoss, RatioLoss
from .mask_transformer import MixedScaleMaskTransformerHead
from .msvit import GateOutput, MSViT
from .route_gates import BaseRouteGate, FixedRoutes, RandomRoutes, RouteGate, ShuffledRoutes, build_route_gate
from .routing import DynamicTokenRoutingTransformer, RouteOutput
from .segmentor import GatedEncoderDecoder, GatedSegTTAModel

__all__ = [
    'BaseGate',
    'BaseRouteGate',
    'BatchShapingLoss',
    'BetaShapingLoss',
    'BoundaryGateLoss',
    'BudgetLoss',
    'DynamicTokenRoutingTransformer',
    'EdgeGate',
    'FixedGate',
    'FixedRoutes',
    'GateOutput',
    'GatedEncoderDecoder',
    'GatedImageClassifier',
    'GatedSegTTAModel',
    'MSViT',
    'MixedScaleMaskTransformerHead',
    'RandomGate',
    'RandomRoutes',
    'RatioLoss',
    'RouteGate',
    'RouteOutput',
    'ScaleGate',
    'ShuffledRoutes',
    'StaticGate',
    'build_gate',
    'build_route_gate',
    'gate_replaced',
]
