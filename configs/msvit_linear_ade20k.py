"""MSViT (ViT-S/16) under a linear head on ADE20K: one 1x1 convolution on the last feature map.

    bash tools/dist_train.sh configs/msvit_linear_ade20k.py 8 --amp

8 GPUs x 1 image. Otherwise msvit_segmenter_ade20k.py, pretrained weights included.

Not trained yet.
"""

_base_ = ['msvit_segmenter_ade20k.py']
model = dict(
    decode_head=dict(
        _delete_=True,
        type='FCNHead',
        in_channels=384,
        channels=384,
        num_convs=0,
        concat_input=False,
        dropout_ratio=0.0,
        num_classes={{_base_.num_classes}},
        loss_decode={{_base_.model.decode_head.loss_decode}},
    )
)
