"""DeiT-S with a learned gate under Segmenter's mask transformer, mmsegmentation's settings, target ratio 0.75."""

_base_ = ['../gates/learned.py']
model = dict(
    type='GatedEncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor', mean=[127.5] * 3, std=[127.5] * 3, bgr_to_rgb=True, pad_val=0, seg_pad_val=255
    ),
    backbone=dict(
        type='MSViT',
        arch='deit-small',
        img_size=(512, 512),
        patch_size=16,
        coarse_patch_size=32,
        drop_path_rate=0.1,
        gate={{_base_.gate}},
        **_base_.coarse_pixels,
        detail=dict(**_base_.detail, levels=(0,)),
    ),
    decode_head=dict(
        type='SegmenterMaskTransformerHead',
        in_channels=384,
        channels=384,
        embed_dims=384,
        num_layers=2,
        num_heads=6,
        dropout_ratio=0.0,
        num_classes=150,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
    gate_loss={{_base_.gate_loss}},
    utility_loss=dict(**_base_.utility_loss, every=2),
    train_cfg=dict(),
    test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(480, 480)),
)
