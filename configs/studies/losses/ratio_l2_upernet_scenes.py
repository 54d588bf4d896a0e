"""MSViT on generated scenes under a plain ratio loss: the squared distance of the mean gate value from 0.75.

    python tools/train.py configs/studies/losses/ratio_l2_upernet_scenes.py

Runs on two CPU cores. Otherwise msvit_upernet_scenes.py.

54.72 and 48.26 mIoU after 1250 of 2500 iterations (seeds 0 and 1, 2026-11-20, docs/ablations.md).
"""

_base_ = ['../../msvit_upernet_scenes.py']
model = dict(gate_loss=dict(_delete_=True, type='RatioLoss', coarse_ratio={{_base_.coarse_ratio}}, norm='l2'))
