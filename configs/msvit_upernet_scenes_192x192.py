"""MSViT of two scales from scratch under UPerNet on generated scenes of 192x192 pixels, target coarse ratio 0.875.

    python tools/train.py configs/msvit_upernet_scenes_192x192.py

Runs on two CPU cores. 198 of 576 tokens, as many as msvit_scales_upernet_scenes_192x192.py, beside which it stands; its
floor is 144.

83.92 and 81.70 mIoU under a budget of 198 tokens, 0.161 GMACs (seeds 0 and 1, 2026-11-28, docs/scales.md).
"""

_base_ = [
    '_base_/models/msvit_tiny_upernet.py',
    '_base_/datasets/scenes_192x192.py',
    '_base_/schedules/adamw_scratch.py',
    '_base_/runtime/default_runtime.py',
]
coarse_ratio = 0.875
model = dict(
    data_preprocessor=dict(size={{_base_.crop_size}}),
    backbone=dict(img_size={{_base_.crop_size}}, gate=dict(initial_ratio=coarse_ratio)),
    decode_head=dict(loss_decode=dict(class_weight={{_base_.class_weight}})),
    gate_loss=dict(coarse_ratio=coarse_ratio),
)
