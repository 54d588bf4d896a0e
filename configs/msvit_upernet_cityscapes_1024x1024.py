"""MSViT (DeiT-S) under UPerNet on Cityscapes, crops and windows of 1024x1024, 160k iterations, 8 GPUs x 2 images.

    bash tools/dist_train.sh configs/msvit_upernet_cityscapes_1024x1024.py 8 --amp

Otherwise msvit_upernet_cityscapes.py, pretrained weights included. ``with_cp=True`` saves memory: the backward pass
computes the layers again.

Not trained yet.
"""

_base_ = [
    '_base_/models/msvit_upernet.py',
    '_base_/datasets/cityscapes_1024x1024.py',
    '_base_/schedules/adamw_160k.py',
    '_base_/runtime/pretrained.py',
]
model = dict(
    data_preprocessor=dict(size={{_base_.crop_size}}),
    backbone=dict(img_size={{_base_.crop_size}}, with_cp=True),
    decode_head=dict(num_classes={{_base_.num_classes}}),
    auxiliary_head=dict(num_classes={{_base_.num_classes}}),
    test_cfg=dict(mode='slide', crop_size={{_base_.crop_size}}, stride=(768, 768)),
)
