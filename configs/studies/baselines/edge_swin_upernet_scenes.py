"""A Swin from scratch under UPerNet on generated scenes, the 0.75 of each image with the least edges coarse.

    python tools/train.py configs/studies/baselines/edge_swin_upernet_scenes.py

Runs on two CPU cores. A baseline of msswin_upernet_scenes.py.

82.84 and 83.46 mIoU, 0.0299 GMACs (seeds 0 and 1, 2026-11-28, docs/swin.md).
"""

_base_ = ['../../msswin_upernet_scenes.py', '../../_base_/gates/edges.py']
model = dict(
    backbone=dict(gate=dict(_delete_=True, **_base_.stand_in, coarse_ratio=_base_.coarse_ratio)), gate_loss=None
)
