"""MSViT (DINOv3 ViT-S/16) under a linear head on ADE20K, crops of 512x512, 160k iterations, 8 GPUs x 2, ratio 0.75.

    bash tools/dist_train.sh configs/msvit_dinov3_small_linear_ade20k.py 8 --amp

One 1x1 convolution on the last feature map. Otherwise msvit_dinov3_small_upernet_ade20k.py,
weights included.

Not trained yet.
"""

_base_ = ['msvit_dinov3_small_upernet_ade20k.py']
model = dict(
    backbone=dict(out_indices=[11], detail=dict(levels=(0,))),
    neck=None,
    auxiliary_head=None,
    decode_head=dict(
        _delete_=True,
        type='FCNHead',
        in_channels=384,
        channels=384,
        num_convs=0,
        concat_input=False,
        dropout_ratio=0.0,
        num_classes={{_base_.num_classes}},
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
)
