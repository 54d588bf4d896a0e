"""A control of from_dense_upernet_scenes.py: trained on alike, the 0.75 of each image with the least edges coarse.

    python tools/train.py configs/studies/transfer/from_dense_edge_upernet_scenes.py --cfg-options load_from=DENSE.pth

Runs on two CPU cores. DENSE.pth: of studies/baselines/dense_fine_upernet_scenes.py.

77.16, 78.23 and 77.86 mIoU at 63 tokens, 0.0457 GMACs (seeds 0, 1 and 2, 2026-11-28, docs/ablations.md).
"""

_base_ = ['from_dense_upernet_scenes.py', '../../_base_/gates/edges.py']
model = dict(
    backbone=dict(gate=dict(_delete_=True, **_base_.stand_in, coarse_ratio=_base_.coarse_ratio)),
    gate_loss=None,
    utility_loss=None,
)
