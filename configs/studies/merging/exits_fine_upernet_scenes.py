"""A ViT on generated scenes, every region fine, whose clear tokens leave before layers 2 and 3: early exit alone.

    python tools/train.py configs/studies/merging/exits_fine_upernet_scenes.py

Runs on two CPU cores. Otherwise dense_fine_upernet_scenes.py.

Not trained yet.
"""

_base_ = ['../baselines/dense_fine_upernet_scenes.py']
model = dict(backbone=dict(exits=dict(layers=(2, 3), num_classes={{_base_.model.decode_head.num_classes}})))
