"""A backbone of 6 layers and 144 channels, three times the work of msvit_tiny_upernet.py's, with the neck it needs."""

small = dict(
    backbone=dict(
        arch=dict(embed_dims=144, num_layers=6, num_heads=6, feedforward_channels=576), out_indices=[1, 3, 5]
    ),
    neck=dict(in_channels=[144, 144, 144]),
)
