"""MSViT on generated scenes whose gate learns through the attention mask alone.

    python tools/train.py configs/studies/losses/mask_gradient_upernet_scenes.py

Runs on two CPU cores. Otherwise msvit_upernet_scenes.py, whose gate learns where tokens return to the grid. All tokens
are computed, and what a gate says of a token weighs it as a key.

21.16 mIoU after 1250 of 2500 iterations: not even the segmentor learns (seed 0, 2026-11-20, docs/ablations.md).
"""

_base_ = ['../../msvit_upernet_scenes.py']
model = dict(backbone=dict(train_execution='masked', gate_gradient='mask'))
