"""MSViT from a trained dense network, target coarse ratio 0.6, 0.18 of whose tokens merge before layers 1 and 2: both.

    python tools/train.py configs/studies/merging/bipartite_upernet_scenes.py --cfg-options load_from=DENSE.pth

Runs on two CPU cores. DENSE.pth: of studies/baselines/dense_fine_upernet_scenes.py. Otherwise
from_dense_upernet_scenes.py, whose gate alone costs as much at its ratio of 0.75.

Not trained yet.
"""

_base_ = ['../transfer/from_dense_upernet_scenes.py']
coarse_ratio = 0.6
model = dict(
    backbone=dict(gate=dict(initial_ratio=coarse_ratio), merge=dict(type='Bipartite', before=(1, 2), share=0.18)),
    gate_loss=dict(coarse_ratio=coarse_ratio),
    utility_loss=dict(coarse_ratio=coarse_ratio),
)
