"""MSViT from a trained dense network, target coarse ratio 0.6, whose tokens merge in mutual nearest pairs: both.

    python tools/train.py configs/studies/merging/merging_upernet_scenes.py --cfg-options load_from=DENSE.pth

Runs on two CPU cores. DENSE.pth: of studies/baselines/dense_fine_upernet_scenes.py. Otherwise
from_dense_upernet_scenes.py, whose gate alone costs as much at its ratio of 0.75.

Not trained yet.
"""

_base_ = ['../transfer/from_dense_upernet_scenes.py']
coarse_ratio = 0.6
model = dict(
    backbone=dict(gate=dict(initial_ratio=coarse_ratio), merge=dict(type='MutualPairs', before=(1, 2))),
    gate_loss=dict(coarse_ratio=coarse_ratio),
    utility_loss=dict(coarse_ratio=coarse_ratio),
)
