"""DeiT-S with a learned gate and a linear classifier on the mean of the mixed grid, target coarse ratio 0.75."""

_base_ = ['../gates/learned.py']
model = dict(
    type='GatedImageClassifier',
    data_preprocessor=dict(
        type='ClsDataPreprocessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True
    ),
    backbone=dict(
        type='MSViT',
        arch='deit-small',
        img_size=(224, 224),
        patch_size=16,
        coarse_patch_size=32,
        drop_path_rate=0.1,
        gate={{_base_.gate}},
    ),
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        in_channels=384,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
    ),
    gate_loss={{_base_.gate_loss}},
)
