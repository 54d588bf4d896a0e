"""A ViT of two scales from scratch under UPerNet on generated scenes of 192x192, edges decide.

    python tools/train.py configs/studies/scales/edges_16_32_upernet_scenes_192x192.py

Runs on two CPU cores. Patches of 16 and 32 pixels, 36 to 144 tokens in training; docs/scales.md
compares it with dense pairs of patch and image size under token budgets; scored at 192x192.

57.22 and 65.27 mIoU at 63 tokens (seeds 0 and 1, 2026-11-28, docs/scales.md).
"""

_base_ = [
    '../../_base_/models/edge_tiny_upernet.py',
    '../../_base_/datasets/scenes_192x192.py',
    '../../_base_/schedules/adamw_scratch.py',
    '../../_base_/runtime/default_runtime.py',
]
model = dict(
    data_preprocessor=dict(size={{_base_.crop_size}}),
    backbone=dict(img_size={{_base_.crop_size}}, patch_sizes=(16, 32), train_ratios=(0.0, 1.0)),
    decode_head=dict(loss_decode=dict(class_weight={{_base_.class_weight}})),
)
