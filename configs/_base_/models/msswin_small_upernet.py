"""A Swin of three stages on regions of 16 pixels under a slim UPerNet: small enough for a CPU core."""

_base_ = ['../gates/learned.py', '../heads/slim_upernet.py']
model = dict(
    backbone=dict(
        type='MSSwin',
        arch=dict(embed_dims=32, depths=[2, 2, 1], num_heads=[1, 2, 4]),
        img_size=(96, 96),
        region_size=16,
        window_size=6,
        out_indices=(0, 1, 2),
        drop_path_rate=0.0,
        gate=dict(**_base_.gate, sample_size=8),
    ),
    decode_head=dict(in_channels=[32, 64, 128], in_index=[0, 1, 2]),
    gate_loss={{_base_.gate_loss}},
)
