"""A Swin of three stages on regions of 16 pixels under a slim UPerNet: small enough for a CPU core.

GroupNorm, so that a result depends neither on batch mates nor on the number of processes.
"""

_base_ = ['../gates/learned.py']
norm_cfg = dict(type='GN', num_groups=8, requires_grad=True)
model = dict(
    type='GatedEncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor', mean=[127.5] * 3, std=[63.75] * 3, bgr_to_rgb=True, pad_val=0, seg_pad_val=255
    ),
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
    decode_head=dict(
        type='UPerHead',
        in_channels=[32, 64, 128],
        in_index=[0, 1, 2],
        pool_scales=(1, 2, 3),
        channels=16,
        dropout_ratio=0.0,
        num_classes=10,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
    gate_loss={{_base_.gate_loss}},
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
