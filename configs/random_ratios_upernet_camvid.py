"""A base for gates to come: msvit_upernet_camvid.py under random regions of random ratio, so that it knows every mix.

    python tools/train.py configs/random_ratios_upernet_camvid.py

Runs on two CPU cores. transfer_upernet_camvid.py puts a gate into it.
"""

_base_ = ['msvit_upernet_camvid.py']
model = dict(
    backbone=dict(gate=dict(_delete_=True, type='RandomGate', coarse_ratio=(0.0, 1.0), extremes=0.25)), gate_loss=None
)
