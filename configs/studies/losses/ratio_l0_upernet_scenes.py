"""MSViT on generated scenes under an L0 loss: the distance of the batch's share of coarse decisions from 0.75.

    python tools/train.py configs/studies/losses/ratio_l0_upernet_scenes.py

Runs on two CPU cores. Otherwise msvit_upernet_scenes.py.

41.81 mIoU after 1250 of 2500 iterations, every region coarse (seed 0, 2026-11-20, docs/ablations.md).
"""

_base_ = ['../../msvit_upernet_scenes.py']
model = dict(gate_loss=dict(_delete_=True, type='RatioLoss', coarse_ratio={{_base_.coarse_ratio}}, norm='l0'))
