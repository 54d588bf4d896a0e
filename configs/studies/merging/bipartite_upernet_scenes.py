"""MSViT on generated scenes, target coarse ratio 0.6, of whose tokens 0.22 merge before layers 1 and 2: both.

    python tools/train.py configs/studies/merging/bipartite_upernet_scenes.py

Runs on two CPU cores. Otherwise msvit_upernet_scenes.py, whose gate alone costs as much at its ratio of 0.75.

Not trained yet.
"""

_base_ = ['../../msvit_upernet_scenes.py']
coarse_ratio = 0.6
model = dict(
    backbone=dict(gate=dict(initial_ratio=coarse_ratio), merge=dict(type='Bipartite', before=(1, 2), share=0.22)),
    gate_loss=dict(coarse_ratio=coarse_ratio),
)
