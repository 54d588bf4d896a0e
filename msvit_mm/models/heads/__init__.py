"""Heads that work on the tokens of a mixed grid."""

from .mask_transformer import MixedScaleMaskTransformerHead

__all__ = ['MixedScaleMaskTransformerHead']
