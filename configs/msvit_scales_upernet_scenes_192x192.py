"""MSViT of three scales from scratch under UPerNet on generated scenes of 192x192 pixels, target ratio 0.5 each.

    python tools/train.py configs/msvit_scales_upernet_scenes_192x192.py

Runs on two CPU cores. Patches of 8, 16 and 32 pixels: 198 of 576 tokens if nodes are coarse independently of those
around them, as many as msvit_upernet_scenes_192x192.py has of two scales; the floor is 36.

83.51 and 82.00 mIoU under a budget of 198 tokens, 0.162 GMACs (seeds 0 and 1, 2026-11-28, docs/scales.md).
"""

_base_ = ['msvit_upernet_scenes_192x192.py']
coarse_ratio = 0.5
model = dict(
    backbone=dict(patch_sizes=(8, 16, 32), gate=dict(initial_ratio=coarse_ratio)),
    gate_loss=dict(coarse_ratio=coarse_ratio),
)
