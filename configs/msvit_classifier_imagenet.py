"""MSViT (DeiT-S) on ImageNet at 224x224, 20 epochs, 8 GPUs x 128 images, target coarse ratio 0.75.

    bash tools/dist_train.sh configs/msvit_classifier_imagenet.py 8 --amp

The short recipe: a pretrained backbone, gate and backbone trained jointly, the first two epochs under random decisions.
From random weights 20 epochs teach little: it starts from DeiT-S of mmpretrain's model zoo, downloaded the first time.

Not trained yet.
"""

_base_ = [
    '_base_/models/msvit_classifier.py',
    '_base_/weights/deit_small.py',
    '_base_/datasets/imagenet_224.py',
    '_base_/schedules/adamw_20e.py',
    '_base_/runtime/classification_runtime.py',
]
model = dict(backbone=dict(init_cfg={{_base_.pretrained}}))
log_processor = dict(by_epoch=True)
custom_hooks = [dict(type='GateScheduleHook', warmup=0.1), dict(type='GateStatisticsHook')]
