"""MSViT (DeiT-S) under UPerNet on Cityscapes, crops of 512x1024, 160k iterations, 8 GPUs x 2 images, target ratio 0.75.

    bash tools/dist_train.sh configs/msvit_upernet_cityscapes.py 8 --amp

Pretrained weights as in msvit_upernet_ade20k.py. Whole images are segmented in sliding windows of the crop's size.

Not trained yet.
"""

_base_ = [
    '_base_/models/msvit_upernet.py',
    '_base_/datasets/cityscapes_512x1024.py',
    '_base_/schedules/adamw_160k.py',
    '_base_/runtime/pretrained.py',
]
model = dict(
    data_preprocessor=dict(size={{_base_.crop_size}}),
    backbone=dict(img_size={{_base_.crop_size}}),
    decode_head=dict(num_classes={{_base_.num_classes}}),
    auxiliary_head=dict(num_classes={{_base_.num_classes}}),
    test_cfg=dict(mode='slide', crop_size={{_base_.crop_size}}, stride=(512, 768)),
)
