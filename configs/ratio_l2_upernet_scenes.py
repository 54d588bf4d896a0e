"""msvit_upernet_scenes.py under a plain ratio loss: the squared distance of the mean gate value from .75.

    python tools/train.py configs/ratio_l2_upernet_scenes.py

Runs on two CPU cores.

Trained for 1250 iterations only (docs/ablations.md).
"""

_base_ = ['msvit_upernet_scenes.py']
model = dict(gate_loss=dict(_delete_=True, type='RatioLoss', coarse_ratio={{_base_.coarse_ratio}}, norm='l2'))
