"""Token-routed PVTv2-b2 on ImageNet at 224x224, 20 epochs, 8 GPUs x 128 images, budget 0.875.

    bash tools/dist_train.sh configs/dit_classifier_imagenet.py 8 --amp

The short recipe, from PVTv2-b2's weights (timm's ``pvt_v2_b2`` or the authors' ``pvt_v2_b2.pth``), converted first:

    python tools/convert_checkpoint.py pvt_v2_b2.pth dit-b2.pth --config configs/dit_classifier_imagenet.py
    --cfg-options model.backbone.init_cfg.checkpoint=dit-b2.pth model.backbone.init_cfg.type=Pretrained

Not trained yet.
"""

_base_ = [
    '_base_/models/dit_classifier.py',
    '_base_/datasets/imagenet_224.py',
    '_base_/schedules/adamw_20e.py',
    '_base_/runtime/classification_routes.py',
]
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'merge_scales': _base_.route_keys.merge_scales}))
log_processor = dict(by_epoch=True)
