"""The tiny ViT under a slim UPerNet on patches of several sizes, which the leaf names with its range of ratios.

Edges rank the nodes; coarse tokens see all their pixels and give detail back. Each training image draws its coarse
ratio, so one network serves every budget.
"""

_base_ = ['msvit_tiny_upernet.py', '../gates/edges.py']
model = dict(
    backbone=dict(
        gate=dict(_delete_=True, **_base_.stand_in), coarse_embedding='own', detail=dict(hidden_dims=64, levels=(0, 1))
    ),
    gate_loss=None,
)
