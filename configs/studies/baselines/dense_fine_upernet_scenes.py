"""A ViT from scratch under UPerNet on generated scenes, every region fine.

    python tools/train.py configs/studies/baselines/dense_fine_upernet_scenes.py

Runs on two CPU cores. The dense baseline of msvit_upernet_scenes.py.

79.68 and 80.80 mIoU, 0.0909 GMACs (seeds 0 and 1, 2026-11-20, docs/results.md).
"""

_base_ = ['../../msvit_upernet_scenes.py', '../../_base_/gates/fine.py']
model = dict(backbone=dict(gate=dict(_delete_=True, **_base_.stand_in)), gate_loss=None)
