"""The backbone of msvit_tiny_upernet.py under a multi-label classifier on the mean of the mixed grid.

Normalisation and gate are those of the segmentor, so that a gate fits both.
"""

_base_ = ['../gates/learned.py']
model = dict(
    type='GatedImageClassifier',
    data_preprocessor=dict(type='ClsDataPreprocessor', mean=[127.5] * 3, std=[63.75] * 3, to_rgb=True),
    backbone=dict(
        type='MSViT',
        arch=dict(embed_dims=96, num_layers=4, num_heads=3, feedforward_channels=384),
        img_size=(96, 96),
        patch_size=8,
        coarse_patch_size=16,
        with_cls_token=False,
        gate=dict(**_base_.gate, sample_size=8),
    ),
    head=dict(type='MultiLabelLinearClsHead', num_classes=6, in_channels=96),
    gate_loss={{_base_.gate_loss}},
)
