"""The learned gate over regions and its loss, both for a target coarse ratio of 0.75: part of every MSViT model."""

coarse_ratio = 0.75
gate = dict(type='ScaleGate', initial_ratio=coarse_ratio)
gate_loss = dict(type='BatchShapingLoss', coarse_ratio=coarse_ratio)
