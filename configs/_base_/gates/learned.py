"""The learned gate over regions and its losses for a target coarse ratio of 0.75: part of every MSViT model.

With coarse tokens that see all their pixels and give detail back, for networks that start from trained weights.
"""

coarse_ratio = 0.75
gate = dict(type='ScaleGate', initial_ratio=coarse_ratio)
gate_loss = dict(type='BatchShapingLoss', coarse_ratio=coarse_ratio)
utility_loss = dict(type='UtilityGateLoss', coarse_ratio=coarse_ratio)
coarse_pixels = dict(coarse_embedding='own')
detail = dict(hidden_dims=64)
