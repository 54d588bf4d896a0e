"""random_ratios_upernet_scenes.py with the backbone of msvit_small_upernet_scenes.py.

python tools/train.py configs/random_ratios_small_upernet_scenes.py
"""

_base_ = ['msvit_small_upernet_scenes.py']
model = dict(
    backbone=dict(gate=dict(_delete_=True, type='RandomGate', coarse_ratio=(0.0, 1.0), extremes=0.25)), gate_loss=None
)
