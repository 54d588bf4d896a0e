"""DeiT-S with weights of ImageNet under a slim UPerNet, on the data of your copy of own_data.py beside this file.

    python tools/train.py configs/custom/own_data_pretrained.py --amp

Copies of the two files work in any folder. Wants a GPU, and in own_data.py images as large as the smallest objects
need, crops of multiples of 32 pixels, such as 512x512, and some 10000 iterations. The weights are downloaded once;
docs/weights.md has others.

Not trained yet.
"""

_base_ = ['own_data.py', 'msvit_mm::_base_/weights/deit_small.py']
channels = [384, 384, 384]
slim = [128, 128, 128]
model = dict(
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
    backbone=dict(
        arch='deit-small',
        patch_size=16,
        coarse_patch_size=32,
        with_cls_token=True,
        out_indices=[5, 8, 11],
        drop_path_rate=0.1,
        gate=dict(sample_size=16),
        **_base_.coarse_pixels,
        detail=dict(**_base_.detail, levels=(0, 1)),
        init_cfg={{_base_.pretrained}},
    ),
    neck=dict(in_channels=channels, out_channels=slim[0]),
    decode_head=dict(in_channels=slim, channels=slim[0]),
    utility_loss=dict(**_base_.utility_loss, every=2),
)
optim_wrapper = dict(
    optimizer=dict(lr=1e-4),
    paramwise_cfg=dict(
        custom_keys={
            'cls_token': dict(decay_mult=0.0),
            'backbone.gate': dict(lr_mult=3.0),
            'backbone.coarse_pixels': dict(lr_mult=4.0),
            'detail': dict(lr_mult=4.0),
        }
    ),
)
custom_hooks = [
    dict(type='GateScheduleHook', warmup=0.2),
    dict(type='GateCalibrationHook'),
    dict(type='GateStatisticsHook'),
]
