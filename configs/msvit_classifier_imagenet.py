"""MSViT (DeiT-S) on ImageNet at 224x224, 20 epochs, 8 GPUs x 128 images, target coarse ratio 0.75.

    bash tools/dist_train.sh configs/msvit_classifier_imagenet.py 8 --amp

The short recipe: a pretrained backbone, gate and backbone trained jointly, the first two epochs under random decisions.
From random weights 20 epochs teach little: start from DeiT-S of mmpretrain's model zoo
(``deit-small_pt-4xb256_in1k``), downloaded first:

    --cfg-options model.backbone.init_cfg.checkpoint=deit-small_pt-4xb256_in1k_20220218-9425b9bb.pth \
        model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.prefix=backbone

Not trained yet.
"""

_base_ = [
    '_base_/models/msvit_classifier.py',
    '_base_/datasets/imagenet_224.py',
    '_base_/schedules/adamw_20e.py',
    '_base_/runtime/classification_runtime.py',
]
log_processor = dict(by_epoch=True)
custom_hooks = [dict(type='GateScheduleHook', warmup=0.1), dict(type='GateStatisticsHook')]
