"""A ViT from scratch under UPerNet on CamVid, random regions coarse, 0.75 of each image.

    python tools/train.py configs/studies/baselines/random_upernet_camvid.py

Runs on two CPU cores. A baseline of msvit_upernet_camvid.py.

45.00 mIoU, 0.256 GMACs (seed 0, 2026-11-20, docs/results.md).
"""

_base_ = ['../../msvit_upernet_camvid.py', '../../_base_/gates/random.py']
model = dict(
    backbone=dict(gate=dict(_delete_=True, **_base_.stand_in, coarse_ratio=_base_.coarse_ratio)), gate_loss=None
)
