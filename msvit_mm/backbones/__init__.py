"""Gated backbones: what computes features from the tokens that a gate chose. Start reading at ``base.py``."""

from .base import ChoiceMap, Choices, Costs, GatedBackbone, registered_backbones
from .msswin import MSSwin
from .msvit import MSViT
from .region import GateOutput, RegionBackbone, coarse_ratios
from .routed_pvt import DynamicTokenRoutingTransformer, RouteOutput

__all__ = [
    'ChoiceMap',
    'Choices',
    'Costs',
    'DynamicTokenRoutingTransformer',
    'GateOutput',
    'GatedBackbone',
    'MSSwin',
    'MSViT',
    'RegionBackbone',
    'RouteOutput',
    'coarse_ratios',
    'registered_backbones',
]
