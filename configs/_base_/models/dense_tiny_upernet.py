"""The tiny ViT under a slim UPerNet with all regions fine: patches of one size, which the leaf names."""

_base_ = ['msvit_tiny_upernet.py', '../gates/fine.py']
model = dict(backbone=dict(gate=dict(_delete_=True, **_base_.stand_in)), gate_loss=None)
