"""MSViT (ViT-S/16) under Segmenter on Cityscapes, crops of 768x768, 80k iterations, 8 GPUs x 1, target ratio 0.75.

    bash tools/dist_train.sh configs/msvit_segmenter_cityscapes.py 8 --amp

Pretrained weights and batch size as in msvit_segmenter_ade20k.py; crops, windows and schedule are Segmenter's own.

Not trained yet.
"""

_base_ = [
    '_base_/models/msvit_segmenter.py',
    '_base_/weights/vit_small_384.py',
    '_base_/datasets/cityscapes_768x768.py',
    '_base_/schedules/sgd_80k.py',
    '_base_/runtime/pretrained.py',
]
train_dataloader = dict(batch_size=1)
model = dict(
    data_preprocessor=dict(size={{_base_.crop_size}}),
    backbone=dict(img_size={{_base_.crop_size}}, init_cfg={{_base_.pretrained}}),
    decode_head=dict(num_classes={{_base_.num_classes}}),
    test_cfg=dict(crop_size={{_base_.crop_size}}, stride=(512, 512)),
)
