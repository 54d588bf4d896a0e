"""A base for gates to come on generated scenes: a ViT under random regions of random ratio, so that it knows every mix.

    python tools/train.py configs/studies/transfer/random_ratios_upernet_scenes.py

Runs on two CPU cores. Otherwise msvit_upernet_scenes.py; transfer_upernet_scenes.py puts a gate into it.

62.67, 61.62 and 61.64 mIoU with 0.75 of each image coarse at random (seeds 0 to 2, 2026-11-20, docs/moving_gates.md;
swept over ratios in docs/results.md).
"""

_base_ = ['../../msvit_upernet_scenes.py', '../../_base_/gates/random_ratios.py']
model = dict(backbone=dict(gate=dict(_delete_=True, **_base_.stand_in)), gate_loss=None)
