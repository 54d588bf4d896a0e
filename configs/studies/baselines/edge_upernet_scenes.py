"""A ViT from scratch under UPerNet on generated scenes, the 0.75 of each image with the least edges coarse.

    python tools/train.py configs/studies/baselines/edge_upernet_scenes.py

Runs on two CPU cores. A baseline of msvit_upernet_scenes.py.

75.38 and 69.42 mIoU, 0.0407 GMACs (seeds 0 and 1, 2026-11-20, docs/results.md).
"""

_base_ = ['../../msvit_upernet_scenes.py', '../../_base_/gates/edges.py']
model = dict(
    backbone=dict(gate=dict(_delete_=True, **_base_.stand_in, coarse_ratio=_base_.coarse_ratio)), gate_loss=None
)
