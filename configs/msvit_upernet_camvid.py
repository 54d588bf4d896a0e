"""MSViT from scratch under UPerNet on CamVid at half resolution, target coarse ratio 0.75.

    python tools/train.py configs/msvit_upernet_camvid.py

Runs on two CPU cores. The gate is smaller than elsewhere and decays: 367 photographs are few.

46.91 mIoU at 38 % of the all-fine GMACs (seed 0, 2026-11-20; 21 minutes on one core; docs/results.md).
"""

_base_ = [
    '_base_/models/msvit_tiny_upernet.py',
    '_base_/datasets/camvid_160x224.py',
    '_base_/schedules/adamw_scratch.py',
    '_base_/runtime/default_runtime.py',
]
model = dict(
    data_preprocessor=dict(size={{_base_.crop_size}}),
    backbone=dict(img_size={{_base_.crop_size}}, gate=dict(hidden_dims=32)),
    decode_head=dict(num_classes={{_base_.num_classes}}, loss_decode=dict(class_weight={{_base_.class_weight}})),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'backbone.gate': dict(lr_mult=1.0, decay_mult=10.0)}))
