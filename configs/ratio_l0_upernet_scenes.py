"""msvit_upernet_scenes.py under an L0 loss: the distance of the batch's share of coarse decisions from .75.

    python tools/train.py configs/ratio_l0_upernet_scenes.py

Runs on two CPU cores.

Trained for 1250 iterations only (docs/ablations.md).
"""

_base_ = ['msvit_upernet_scenes.py']
model = dict(gate_loss=dict(_delete_=True, type='RatioLoss', coarse_ratio={{_base_.coarse_ratio}}, norm='l0'))
