"""msvit_upernet_scenes.py under plain Batch-Shaping: one Beta prior of mean .75 for every position, nothing learned.

    python tools/train.py configs/beta_upernet_scenes.py

Runs on two CPU cores. a + b = 1, as Bejnordi et al. (ICLR 2020) have it.

Trained for 1250 iterations only (docs/ablations.md).
"""

_base_ = ['msvit_upernet_scenes.py']
model = dict(gate_loss=dict(_delete_=True, type='BetaShapingLoss', a=_base_.coarse_ratio, b=1 - _base_.coarse_ratio))
