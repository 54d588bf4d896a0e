"""A dense ViT from scratch under UPerNet on scenes of 64x64: as few tokens as MSViT's at a coarse ratio of 0.75.

    python tools/train.py configs/studies/baselines/dense_lowres_upernet_scenes.py

Runs on two CPU cores. The dense baseline of msvit_upernet_scenes.py at about as many tokens; scored at 96x96.

63.64 and 60.69 mIoU, 0.0365 GMACs (seeds 0 and 1, 2026-11-20, docs/results.md).
"""

_base_ = [
    '../../_base_/models/msvit_tiny_upernet.py',
    '../../_base_/gates/fine.py',
    '../../_base_/datasets/scenes_64x64.py',
    '../../_base_/schedules/adamw_scratch.py',
    '../../_base_/runtime/default_runtime.py',
]
model = dict(
    data_preprocessor=dict(size={{_base_.crop_size}}),
    backbone=dict(img_size={{_base_.crop_size}}, gate=dict(_delete_=True, **_base_.stand_in)),
    decode_head=dict(loss_decode=dict(class_weight={{_base_.class_weight}})),
    gate_loss=None,
)
