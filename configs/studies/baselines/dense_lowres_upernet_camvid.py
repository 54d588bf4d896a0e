"""A dense ViT from scratch under UPerNet on CamVid at 126x168: 336 tokens, about what MSViT's gate leaves of 690.

    python tools/train.py configs/studies/baselines/dense_lowres_upernet_camvid.py

Runs on two CPU cores. The dense baseline of msvit_upernet_camvid.py at equal multiply-adds; scored at full resolution.

46.13 mIoU, 0.262 GMACs (seed 0, 2026-11-20, docs/results.md).
"""

_base_ = [
    '../../_base_/models/msvit_tiny_upernet.py',
    '../../_base_/gates/fine.py',
    '../../_base_/datasets/camvid_112x160.py',
    '../../_base_/schedules/adamw_scratch.py',
    '../../_base_/runtime/default_runtime.py',
]
model = dict(
    data_preprocessor=dict(size={{_base_.crop_size}}),
    backbone=dict(img_size={{_base_.crop_size}}, gate=dict(_delete_=True, **_base_.stand_in)),
    decode_head=dict(num_classes={{_base_.num_classes}}, loss_decode=dict(class_weight={{_base_.class_weight}})),
    gate_loss=None,
)
