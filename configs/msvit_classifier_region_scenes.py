"""A small MSViT whose attention stays within regions learns a gate by classifying generated scenes.

    python tools/train.py configs/msvit_classifier_region_scenes.py

Runs on two CPU cores. Which shapes are present? A region has to tell from its own pixels, at the scale its gate chose,
so the task says what that scale was worth.

81.12, 78.06 and 82.94 mAP (metafile.yml); in a segmentor its gates are worth 3.6 mIoU over random ones
(docs/moving_gates.md; both seeds 0 to 2, 2026-11-20).
"""

_base_ = ['msvit_classifier_scenes.py', '_base_/gates/within_regions.py']
model = dict(
    backbone=dict(arch=dict(num_layers=3), **_base_.within_regions.backbone),
    neck={{_base_.within_regions.neck}},
    gate_loss={{_base_.within_regions.gate_loss}},
)
max_iters = 2000
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'head': dict(lr_mult=10.0)}))
param_scheduler = [_base_.warmup_lr, dict(_base_.decay_lr, end=max_iters)]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
default_hooks = dict(checkpoint=dict(interval=max_iters))
custom_hooks = {{_base_.within_regions_hooks}}
