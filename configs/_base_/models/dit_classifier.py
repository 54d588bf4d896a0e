"""Token-routed PVTv2-b2 with a linear classifier on the mean of its last row, to cost 0.875 of plain PVTv2."""

_base_ = ['../gates/routes.py']
model = dict(
    type='GatedImageClassifier',
    data_preprocessor=dict(
        type='ClsDataPreprocessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True
    ),
    backbone=dict(
        type='DynamicTokenRoutingTransformer',
        arch='b2',
        img_size=(224, 224),
        drop_path_rate=0.1,
        out_indices=(3,),
        gate={{_base_.gate}},
        init='pvtv2',
    ),
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        in_channels=512,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
    ),
    gate_loss={{_base_.gate_loss}},
)
