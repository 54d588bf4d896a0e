"""A dense network trained on, whose clear tokens leave before layers 2 and 3, every region fine: early exit alone.

    python tools/train.py configs/studies/merging/exits_fine_upernet_scenes.py --cfg-options load_from=DENSE.pth

Runs on two CPU cores. DENSE.pth: of studies/baselines/dense_fine_upernet_scenes.py. Otherwise
dense_continued_upernet_scenes.py.

81.06 and 82.21 mIoU, 0.0617 and 0.0612 GMACs (seeds 0 and 1, 2026-11-28, docs/merging.md).
"""

_base_ = ['../baselines/dense_continued_upernet_scenes.py']
model = dict(backbone=dict(exits=dict(layers=(2, 3), num_classes={{_base_.model.decode_head.num_classes}})))
