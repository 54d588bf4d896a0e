"""MSSwin (Swin-T) on ImageNet at 224x224, 20 epochs, 8 GPUs x 128 images, target coarse ratio 0.75.

    bash tools/dist_train.sh configs/msswin_classifier_imagenet.py 8 --amp

The short recipe: a pretrained backbone, gate and backbone trained jointly, the first two epochs under random decisions.
It starts from Swin-T of mmpretrain's model zoo, downloaded the first time; from the file of Swin's authors, or of timm,
with the ``--cfg-options`` that msswin_tiny_upernet_ade20k.py states.

Not trained yet.
"""

_base_ = [
    '_base_/models/msswin_classifier.py',
    '_base_/weights/swin_tiny.py',
    '_base_/datasets/imagenet_224.py',
    '_base_/schedules/adamw_20e.py',
    '_base_/runtime/classification_runtime.py',
]
model = dict(backbone=dict(init_cfg={{_base_.pretrained}}))
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'relative_position_bias_table': dict(decay_mult=0.0)}))
log_processor = dict(by_epoch=True)
custom_hooks = [dict(type='GateScheduleHook', warmup=0.1), dict(type='GateStatisticsHook')]
