"""A UPerNet of 16 channels for 10 classes, small enough for a CPU core: a model adds ``in_channels`` and ``in_index``.

GroupNorm, so that a result depends neither on batch mates nor on the number of processes.
"""

norm_cfg = dict(type='GN', num_groups=8, requires_grad=True)
model = dict(
    type='GatedEncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor', mean=[127.5] * 3, std=[63.75] * 3, bgr_to_rgb=True, pad_val=0, seg_pad_val=255
    ),
    decode_head=dict(
        type='UPerHead',
        pool_scales=(1, 2, 3),
        channels=16,
        dropout_ratio=0.0,
        num_classes=10,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
