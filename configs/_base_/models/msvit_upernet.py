"""DeiT-S with a learned gate under UPerNet, mmsegmentation's settings for plain ViTs, target coarse ratio 0.75."""

_base_ = ['../gates/learned.py', '../weights/deit_small.py']
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
        type='MSViT',
        arch='deit-small',
        img_size=(512, 512),
        patch_size=16,
        coarse_patch_size=32,
        out_indices=[2, 5, 8, 11],
        drop_path_rate=0.1,
        gate={{_base_.gate}},
        **_base_.coarse_pixels,
        detail=dict(**_base_.detail, levels=(0, 1)),  # of which the neck keeps every cell
        init_cfg={{_base_.pretrained}},
    ),
    neck=dict(type='MultiLevelNeck', in_channels=[384, 384, 384, 384], out_channels=384, scales=[4, 2, 1, 0.5]),
    decode_head=dict(
        type='UPerHead',
        in_channels=[384, 384, 384, 384],
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
        in_index=3,
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
    utility_loss=dict(**_base_.utility_loss, every=4),  # the head is heavy
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
