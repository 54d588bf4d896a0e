"""A Swin from scratch under UPerNet on generated scenes, every region fine.

    python tools/train.py configs/studies/baselines/dense_swin_upernet_scenes.py

Runs on two CPU cores. The dense baseline of msswin_upernet_scenes.py.

86.09 and 86.40 mIoU, 0.0495 GMACs (seeds 0 and 1, 2026-11-28, docs/swin.md).
"""

_base_ = ['../../msswin_upernet_scenes.py', '../../_base_/gates/fine.py']
model = dict(backbone=dict(gate=dict(_delete_=True, **_base_.stand_in)), gate_loss=None)
