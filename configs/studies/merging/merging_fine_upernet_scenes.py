"""A dense network trained on while its tokens merge, every region fine: merging alone.

    python tools/train.py configs/studies/merging/merging_fine_upernet_scenes.py --cfg-options load_from=DENSE.pth

Runs on two CPU cores. DENSE.pth: of studies/baselines/dense_fine_upernet_scenes.py. Otherwise
dense_continued_upernet_scenes.py; mutual nearest pairs before layers 1 and 2 of 4.

Not trained yet.
"""

_base_ = ['../baselines/dense_continued_upernet_scenes.py']
model = dict(backbone=dict(merge=dict(type='MutualPairs', before=(1, 2))))
