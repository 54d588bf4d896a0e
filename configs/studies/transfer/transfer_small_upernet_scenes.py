"""A segmentor of 6 layers on generated scenes, fine-tuned around a frozen gate that may come from one of 4 layers.

    python tools/train.py configs/studies/transfer/transfer_small_upernet_scenes.py --cfg-options load_from=gate.pth

Runs on two CPU cores. Otherwise transfer_upernet_scenes.py, which makes gate.pth: the same gate, another size.

A gate of 4 layers: 47.94 mIoU; one learned in place: 49.92; both after 400 of 800 iterations, on a base of 1000
(seed 0, 2026-11-20, docs/moving_gates.md).
"""

_base_ = ['transfer_upernet_scenes.py', '../../_base_/models/msvit_small.py']
model = {{_base_.small}}
