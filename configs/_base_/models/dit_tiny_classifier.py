"""The backbone of dit_tiny_upernet.py under a multi-label classifier on the mean of its last row."""

_base_ = ['../gates/routes_at_full_cost.py']
model = dict(
    type='GatedImageClassifier',
    data_preprocessor=dict(type='ClsDataPreprocessor', mean=[127.5] * 3, std=[63.75] * 3, to_rgb=True),
    backbone=dict(
        type='DynamicTokenRoutingTransformer',
        arch='b0',
        img_size=(96, 96),
        drop_path_rate=0.0,
        out_indices=(3,),
        gate={{_base_.gate}},
        init='scratch',
    ),
    head=dict(type='MultiLabelLinearClsHead', num_classes=6, in_channels=256),
    gate_loss={{_base_.gate_loss}},
)
