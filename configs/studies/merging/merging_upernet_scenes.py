"""MSViT on generated scenes whose tokens merge behind the gate: mutual nearest pairs before layers 1 and 2 of 4.

    python tools/train.py configs/studies/merging/merging_upernet_scenes.py

Runs on two CPU cores. Otherwise msvit_upernet_scenes.py: gate and merging.

Not trained yet.
"""

_base_ = ['../../msvit_upernet_scenes.py']
model = dict(backbone=dict(merge=dict(type='MutualPairs', before=(1, 2))))
