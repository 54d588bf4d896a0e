"""MSViT on CamVid with a gate that the labels supervise: regions that hold a class boundary should be fine.

    python tools/train.py configs/studies/losses/boundary_gate_upernet_camvid.py

Runs on two CPU cores. Otherwise msvit_upernet_camvid.py. The task does not reach this gate
(``train_execution='packed'``): the labels and the gate loss alone teach it.

Its gate, learned for 1000 of 2500 iterations, then frozen in another network: 36.37 mIoU, random regions 35.79 (seed 0,
2026-11-20, docs/moving_gates.md). Its own mIoU is not recorded.
"""

_base_ = ['../../msvit_upernet_camvid.py']
model = dict(backbone=dict(train_execution='packed'), boundary_loss=dict(type='BoundaryGateLoss', weight=4.0))
