"""A ViT of 4 layers and 96 channels on patches of 8 and 16 pixels under a slim UPerNet: small enough for two CPU cores.

GroupNorm, so that a result depends neither on batch mates nor on the number of processes.
"""

_base_ = ['../gates/learned.py']
norm_cfg = dict(type='GN', num_groups=8, requires_grad=True)
data_preprocessor = dict(
    type='SegDataPreProcessor', mean=[127.5] * 3, std=[63.75] * 3, bgr_to_rgb=True, pad_val=0, seg_pad_val=255
)
model = dict(
    type='GatedEncoderDecoder',
    data_preprocessor=data_preprocessor,
    backbone=dict(
        type='MSViT',
        arch=dict(embed_dims=96, num_layers=4, num_heads=3, feedforward_channels=384),
        img_size=(96, 96),
        patch_size=8,
        coarse_patch_size=16,
        with_cls_token=False,
        out_indices=[1, 2, 3],
        gate=dict(**_base_.gate, sample_size=8),
    ),
    neck=dict(type='MultiLevelNeck', in_channels=[96, 96, 96], out_channels=16, scales=[2, 1, 0.5]),
    decode_head=dict(
        type='UPerHead',
        in_channels=[16, 16, 16],
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
