"""A base for gates to come on CamVid: a ViT under random regions of random ratio, so that it knows every mix.

    python tools/train.py configs/studies/transfer/random_ratios_upernet_camvid.py

Runs on two CPU cores. Otherwise msvit_upernet_camvid.py; transfer_upernet_camvid.py puts a gate into it.

32.96 mIoU with 0.75 of each image coarse at random, after 1000 of 2500 iterations (seed 0, 2026-11-20,
docs/moving_gates.md).
"""

_base_ = ['../../msvit_upernet_camvid.py', '../../_base_/gates/random_ratios.py']
model = dict(backbone=dict(gate=dict(_delete_=True, **_base_.stand_in)), gate_loss=None)
