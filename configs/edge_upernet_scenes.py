"""A baseline of msvit_upernet_scenes.py: the .75 of each image with the least edges is coarse; for two CPU cores.

    python tools/train.py configs/edge_upernet_scenes.py

Seeds 0 and 1 are recorded in docs/benchmarks.md.
"""

_base_ = ['msvit_upernet_scenes.py']
model = dict(
    backbone=dict(gate=dict(_delete_=True, type='EdgeGate', coarse_ratio={{_base_.coarse_ratio}})), gate_loss=None
)
