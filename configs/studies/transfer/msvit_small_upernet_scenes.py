"""MSViT of 6 layers and 144 channels on generated scenes, three times the work of the 4 layers of 96 channels.

    python tools/train.py configs/studies/transfer/msvit_small_upernet_scenes.py

Runs on two CPU cores. Otherwise msvit_upernet_scenes.py: what a gate moved to another backbone is compared with.

Its gate, learned for 1000 of 2500 iterations, then frozen in transfer_small_upernet_scenes.py: 49.92 mIoU (seed 0,
2026-11-20, docs/moving_gates.md). Its own mIoU is not recorded.
"""

_base_ = ['../../msvit_upernet_scenes.py', '../../_base_/models/msvit_small.py']
model = {{_base_.small}}
