"""Swin-T with a learned gate and a linear classifier on the mean of its last map, target coarse ratio 0.75.

That map has one token of every region, from fine tokens or from coarse ones.
"""

_base_ = ['../gates/learned.py']
model = dict(
    type='GatedImageClassifier',
    data_preprocessor=dict(
        type='ClsDataPreprocessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True
    ),
    backbone=dict(
        type='MSSwin',
        arch='tiny',
        img_size=(224, 224),
        region_size=32,
        window_size=7,
        pad_small_map=False,
        drop_path_rate=0.2,
        gate={{_base_.gate}},
    ),
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        in_channels=768,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
    ),
    gate_loss={{_base_.gate_loss}},
)
