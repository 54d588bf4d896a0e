"""Swin-T with a learned gate under UPerNet, mmsegmentation's settings for Swin, target coarse ratio 0.75."""

_base_ = ['../gates/learned.py', '../weights/swin_tiny.py']
norm_cfg = dict(type='SyncBN', requires_grad=True)
data_preprocessor = dict(
    type='SegDataPreProcessor',
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    bgr_to_rgb=True,
    pad_val=0,
    seg_pad_val=255,
)
model = dict(
    type='GatedEncoderDecoder',
    data_preprocessor=data_preprocessor,
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
    decode_head=dict(
        type='UPerHead',
        in_channels=[96, 192, 384, 768],
        in_index=[0, 1, 2, 3],
        pool_scales=(1, 2, 3, 6),
        channels=512,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
    auxiliary_head=dict(
        type='FCNHead',
        in_channels=384,
        in_index=2,
        channels=256,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=0.4),
    ),
    gate_loss={{_base_.gate_loss}},
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
