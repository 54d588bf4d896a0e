"""MSSwin (Swin-T) on ImageNet at 224x224, 20 epochs, 8 GPUs x 128 images, target coarse ratio 0.75.

    bash tools/dist_train.sh configs/msswin_classifier_imagenet.py 8 --amp

The short recipe: a pretrained backbone, gate and backbone trained jointly, the first two epochs under random decisions.
Start from Swin-T of mmpretrain's model zoo (``swin-tiny_16xb64_in1k``), downloaded first:

    --cfg-options model.backbone.init_cfg.checkpoint=swin_tiny_224_b16x64_300e_imagenet_20210616_090925-66df6be6.pth \
        model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.prefix=backbone

Not trained yet.
"""

_base_ = [
    '_base_/models/msswin_classifier.py',
    '_base_/datasets/imagenet_224.py',
    '_base_/schedules/adamw_20e.py',
    '_base_/runtime/classification_runtime.py',
]
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'relative_position_bias_table': dict(decay_mult=0.0)}))
log_processor = dict(by_epoch=True)
custom_hooks = [dict(type='GateScheduleHook', warmup=0.1), dict(type='GateStatisticsHook')]
