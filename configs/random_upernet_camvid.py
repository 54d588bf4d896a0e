"""A baseline of msvit_upernet_camvid.py: random regions are coarse, .75 of each image; runs on two CPU cores.

    python tools/train.py configs/random_upernet_camvid.py

Seed 0 is recorded in docs/benchmarks.md.
"""

_base_ = ['msvit_upernet_camvid.py']
model = dict(
    backbone=dict(gate=dict(_delete_=True, type='RandomGate', coarse_ratio={{_base_.coarse_ratio}})), gate_loss=None
)
