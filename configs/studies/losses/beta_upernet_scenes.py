"""MSViT on generated scenes under plain Batch-Shaping: one Beta prior of mean 0.75 for every position, not learned.

    python tools/train.py configs/studies/losses/beta_upernet_scenes.py

Runs on two CPU cores. Otherwise msvit_upernet_scenes.py. a + b = 1, as Bejnordi et al. (ICLR 2020) have it.

50.35 mIoU after 1250 of 2500 iterations (seed 0, 2026-11-20, docs/ablations.md).
"""

_base_ = ['../../msvit_upernet_scenes.py']
model = dict(gate_loss=dict(_delete_=True, type='BetaShapingLoss', a=_base_.coarse_ratio, b=1 - _base_.coarse_ratio))
