"""A base for gates to come: msvit_upernet_scenes.py under random regions of random ratio, so that it knows every mix.

    python tools/train.py configs/random_ratios_upernet_scenes.py

Runs on two CPU cores. transfer_upernet_scenes.py puts a gate into it.
"""

_base_ = ['random_upernet_scenes.py']
model = dict(backbone=dict(gate=dict(coarse_ratio=(0.0, 1.0), extremes=0.25)))
