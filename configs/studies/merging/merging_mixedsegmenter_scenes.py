"""MSViT on generated scenes whose tokens merge behind the gate, under a mask transformer on the merged tokens.

    python tools/train.py configs/studies/merging/merging_mixedsegmenter_scenes.py

Runs on two CPU cores. Otherwise msvit_mixedsegmenter_scenes.py; mutual nearest pairs before layers 1 and 2 of 4.

Not trained yet.
"""

_base_ = ['../../msvit_mixedsegmenter_scenes.py']
model = dict(backbone=dict(merge=dict(type='MutualPairs', before=(1, 2))))
