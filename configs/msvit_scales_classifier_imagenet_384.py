"""MSViT (DeiT-S) of three scales on ImageNet at 384x384, 20 epochs, 8 GPUs x 32 images, target ratio 0.75 each.

    bash tools/dist_train.sh configs/msvit_scales_classifier_imagenet_384.py 8 --amp

Patches of 16, 32 and 64 pixels: 90 of 576 tokens, fewer than half of those of the dense network at 224x224. Otherwise
msvit_classifier_imagenet.py, pretrained weights included: their positions are resized on loading.

Not trained yet.
"""

_base_ = [
    '_base_/models/msvit_classifier.py',
    '_base_/weights/deit_small.py',
    '_base_/datasets/imagenet_384.py',
    '_base_/schedules/adamw_20e.py',
    '_base_/runtime/classification_runtime.py',
]
log_processor = dict(by_epoch=True)
model = dict(backbone=dict(img_size={{_base_.crop_size}}, patch_sizes=(16, 32, 64), init_cfg={{_base_.pretrained}}))
custom_hooks = [dict(type='GateScheduleHook', warmup=0.1), dict(type='GateStatisticsHook')]
