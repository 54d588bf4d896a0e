"""A ViT of three scales from scratch under UPerNet on generated scenes of 192x192, edges decide.

    python tools/train.py configs/studies/scales/edges_8_16_32_upernet_scenes_192x192.py

Runs on two CPU cores. Patches of 8, 16 and 32 pixels, 36 to about 150 tokens in training; docs/scales.md
compares it with dense pairs of patch and image size under token budgets; scored at 192x192.

79.47 and 77.71 mIoU at 94 tokens (seeds 0 and 1, 2026-11-28, docs/scales.md).
"""

_base_ = [
    '../../_base_/models/edge_tiny_upernet.py',
    '../../_base_/datasets/scenes_192x192.py',
    '../../_base_/schedules/adamw_scratch.py',
    '../../_base_/runtime/default_runtime.py',
]
coarse_ratio = 0.85
model = dict(
    data_preprocessor=dict(size={{_base_.crop_size}}),
    backbone=dict(
        img_size={{_base_.crop_size}},
        patch_sizes=(8, 16, 32),
        train_ratios=(0.7, 1.0),
        gate=dict(coarse_ratio=coarse_ratio),
    ),
    decode_head=dict(loss_decode=dict(class_weight={{_base_.class_weight}})),
)
