"""MSViT on generated scenes under a plain ratio loss: the distance of the batch's mean gate value from 0.75.

    python tools/train.py configs/studies/losses/ratio_l1_upernet_scenes.py

Runs on two CPU cores. Otherwise msvit_upernet_scenes.py.

46.32 mIoU after 1250 of 2500 iterations, 0.982 of the regions coarse (seed 0, 2026-11-20, docs/ablations.md).
"""

_base_ = ['../../msvit_upernet_scenes.py']
model = dict(gate_loss=dict(_delete_=True, type='RatioLoss', coarse_ratio={{_base_.coarse_ratio}}, norm='l1'))
