"""A Swin from scratch under UPerNet on generated scenes, random regions coarse, 0.75 of each image.

    python tools/train.py configs/studies/baselines/random_swin_upernet_scenes.py

Runs on two CPU cores. A baseline of msswin_upernet_scenes.py.

77.90 and 79.91 mIoU, 0.0297 GMACs (seeds 0 and 1, 2026-11-28, docs/swin.md).
"""

_base_ = ['../../msswin_upernet_scenes.py', '../../_base_/gates/random.py']
model = dict(
    backbone=dict(gate=dict(_delete_=True, **_base_.stand_in, coarse_ratio=_base_.coarse_ratio)), gate_loss=None
)
