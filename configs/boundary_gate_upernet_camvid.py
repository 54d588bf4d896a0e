"""msvit_upernet_camvid.py with a gate that the labels supervise: regions that hold a class boundary should be fine.

    python tools/train.py configs/boundary_gate_upernet_camvid.py

The task does not reach this gate (``train_execution='packed'``): the labels and the gate loss alone teach it. Runs on
two CPU cores.
"""

_base_ = ['msvit_upernet_camvid.py']
model = dict(backbone=dict(train_execution='packed'), boundary_loss=dict(type='BoundaryGateLoss', weight=4.0))
