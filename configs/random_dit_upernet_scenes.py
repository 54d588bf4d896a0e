"""A baseline of dit_upernet_scenes.py: random routes that cost .6 of plain PVTv2; runs on two CPU cores.

    python tools/train.py configs/random_dit_upernet_scenes.py

``active_ratio_of`` of the backbone gives the share of open tokens for other costs.

docs/benchmarks.md records seeds 0 and 1, random from iteration 1000 on, and from the first for 1250 iterations.
"""

_base_ = ['dit_upernet_scenes.py']
model = dict(backbone=dict(gate=dict(_delete_=True, type='RandomRoutes', active_ratio=0.0998)), gate_loss=None)
