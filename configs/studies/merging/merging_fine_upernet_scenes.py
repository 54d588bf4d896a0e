"""A ViT from scratch under UPerNet on generated scenes, every region fine, whose tokens merge: merging alone.

    python tools/train.py configs/studies/merging/merging_fine_upernet_scenes.py

Runs on two CPU cores. Otherwise dense_fine_upernet_scenes.py; mutual nearest pairs before layers 1 and 2 of 4.

Not trained yet.
"""

_base_ = ['../baselines/dense_fine_upernet_scenes.py']
model = dict(backbone=dict(merge=dict(type='MutualPairs', before=(1, 2))))
