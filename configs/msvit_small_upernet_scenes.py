"""msvit_upernet_scenes.py with a backbone of 6 layers and 144 channels, three times the work; runs on two CPU cores.

    python tools/train.py configs/msvit_small_upernet_scenes.py

Trained for 1000 iterations only (docs/ablations.md).
"""

_base_ = ['msvit_upernet_scenes.py']
model = dict(
    backbone=dict(
        arch=dict(embed_dims=144, num_layers=6, num_heads=6, feedforward_channels=576), out_indices=[1, 3, 5]
    ),
    neck=dict(in_channels=[144, 144, 144]),
)
