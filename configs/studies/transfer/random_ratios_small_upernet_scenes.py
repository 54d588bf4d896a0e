"""A base of 6 layers for gates to come on generated scenes, under random regions of random ratio.

    python tools/train.py configs/studies/transfer/random_ratios_small_upernet_scenes.py

Runs on two CPU cores. Otherwise msvit_small_upernet_scenes.py; transfer_small_upernet_scenes.py puts a gate into it.

29.16 mIoU with 0.75 of each image coarse at random, after 1000 of 2500 iterations (seed 0, 2026-11-20,
docs/moving_gates.md).
"""

_base_ = ['msvit_small_upernet_scenes.py', '../../_base_/gates/random_ratios.py']
model = dict(backbone=dict(gate=dict(_delete_=True, **_base_.stand_in)), gate_loss=None)
