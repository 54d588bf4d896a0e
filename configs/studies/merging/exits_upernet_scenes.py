"""MSViT from a trained dense network whose clear tokens leave behind the gate: exits before layers 2 and 3 of 4.

    python tools/train.py configs/studies/merging/exits_upernet_scenes.py --cfg-options load_from=DENSE.pth

Runs on two CPU cores. DENSE.pth: of studies/baselines/dense_fine_upernet_scenes.py. Otherwise
from_dense_upernet_scenes.py.

78.18 and 79.29 mIoU, 0.0401 and 0.0400 GMACs (seeds 0 and 1, 2026-11-28, docs/merging.md).
"""

_base_ = ['../transfer/from_dense_upernet_scenes.py']
model = dict(backbone=dict(exits=dict(layers=(2, 3), num_classes={{_base_.model.decode_head.num_classes}})))
