"""A dense ViT from scratch under UPerNet on scenes of 192x192, 144 patches of 16 pixels.

    python tools/train.py configs/studies/scales/dense_16_upernet_scenes_192x192.py

Runs on two CPU cores. One of the pairs of patch and image size that docs/scales.md compares; scored at 192x192.

76.27 and 79.53 mIoU at 144 tokens (seeds 0 and 1, 2026-11-28, docs/scales.md).
"""

_base_ = [
    '../../_base_/models/dense_tiny_upernet.py',
    '../../_base_/datasets/scenes_192x192.py',
    '../../_base_/schedules/adamw_scratch.py',
    '../../_base_/runtime/default_runtime.py',
]
model = dict(
    data_preprocessor=dict(size={{_base_.crop_size}}),
    backbone=dict(img_size={{_base_.crop_size}}, patch_size=16, coarse_patch_size=32),
    decode_head=dict(loss_decode=dict(class_weight={{_base_.class_weight}})),
)
