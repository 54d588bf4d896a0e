"""A ViT from scratch under UPerNet on CamVid at half resolution, every region coarse.

    python tools/train.py configs/studies/baselines/dense_coarse_upernet_camvid.py

Runs on two CPU cores. The dense baseline of msvit_upernet_camvid.py.

42.43 mIoU, 0.150 GMACs (seed 0, 2026-11-20; 14 minutes on one core; docs/results.md).
"""

_base_ = ['../../msvit_upernet_camvid.py', '../../_base_/gates/coarse.py']
model = dict(backbone=dict(gate=dict(_delete_=True, **_base_.stand_in)), gate_loss=None)
