"""A control of from_dense_upernet_camvid.py: trained on alike, a random 0.68 of each image coarse.

    python tools/train.py configs/studies/transfer/from_dense_random_upernet_camvid.py --cfg-options load_from=DENSE.pth

Runs on two CPU cores. DENSE.pth: of studies/baselines/dense_fine_upernet_camvid.py.

51.20, 48.69 and 51.69 mIoU, 0.313 GMACs (seeds 0, 1 and 2, 2026-11-29, docs/ablations.md).
"""

_base_ = ['from_dense_upernet_camvid.py', '../../_base_/gates/random.py']
model = dict(backbone=dict(gate=dict(_delete_=True, **_base_.stand_in, coarse_ratio=_base_.coarse_ratio)))
