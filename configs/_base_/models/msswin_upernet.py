"""Swin-T with a learned gate under UPerNet, mmsegmentation's settings for Swin, target coarse ratio 0.75."""

_base_ = ['../gates/learned.py', '../weights/swin_tiny.py', '../heads/upernet.py']
model = dict(
    backbone=dict(
        type='MSSwin',
        arch='tiny',
        img_size=(512, 512),
        region_size=32,
        window_size=7,
        pad_small_map=True,
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.3,
        gate={{_base_.gate}},
        init_cfg={{_base_.pretrained}},
    ),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
    gate_loss={{_base_.gate_loss}},
)
