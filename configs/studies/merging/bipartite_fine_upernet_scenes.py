"""A ViT on generated scenes, every region fine, 0.4 of whose tokens merge before layers 0 and 1: merging alone.

    python tools/train.py configs/studies/merging/bipartite_fine_upernet_scenes.py

Runs on two CPU cores. Otherwise dense_fine_upernet_scenes.py; the backbone costs as much as the gate of
msvit_upernet_scenes.py leaves, within 2 %.

Not trained yet.
"""

_base_ = ['../baselines/dense_fine_upernet_scenes.py']
model = dict(backbone=dict(merge=dict(type='Bipartite', before=(0, 1), share=0.4)))
