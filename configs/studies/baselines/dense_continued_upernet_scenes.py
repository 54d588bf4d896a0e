"""The control of from_dense_upernet_scenes.py: the dense network trained on for as long, every region fine.

    python tools/train.py configs/studies/baselines/dense_continued_upernet_scenes.py --cfg-options load_from=DENSE.pth

Runs on two CPU cores. DENSE.pth: of studies/baselines/dense_fine_upernet_scenes.py.

81.60, 82.68 and 81.74 mIoU, 0.0909 GMACs (seeds 0, 1 and 2, 2026-11-28, docs/ablations.md).
"""

_base_ = ['../transfer/from_dense_upernet_scenes.py', '../../_base_/gates/fine.py']
model = dict(
    backbone=dict(gate=dict(_delete_=True, **_base_.stand_in), coarse_embedding='shared', detail=None),
    gate_loss=None,
    utility_loss=None,
)
