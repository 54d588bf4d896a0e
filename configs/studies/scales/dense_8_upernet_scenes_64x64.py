"""A dense ViT from scratch under UPerNet on scenes of 192x192 shrunk to 64x64, 64 patches of 8 pixels.

    python tools/train.py configs/studies/scales/dense_8_upernet_scenes_64x64.py

Runs on two CPU cores. One of the pairs of patch and image size that docs/scales.md compares; scored at 192x192.

Not trained yet.
"""

_base_ = [
    '../../_base_/models/dense_tiny_upernet.py',
    '../../_base_/datasets/scenes_192x192_at_64x64.py',
    '../../_base_/schedules/adamw_scratch.py',
    '../../_base_/runtime/default_runtime.py',
]
model = dict(
    data_preprocessor=dict(size={{_base_.crop_size}}),
    backbone=dict(img_size={{_base_.crop_size}}, patch_size=8, coarse_patch_size=16),
    decode_head=dict(loss_decode=dict(class_weight={{_base_.class_weight}})),
)
