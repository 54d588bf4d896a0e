"""A small MSViT under a small Mask R-CNN on generated scenes, target coarse ratio 0.75. Optional.

    msvit scenes-to-coco data/scenes_coco --num-images 2000 256
    python tools/train.py configs/detection/msvit_mask_rcnn_scenes.py

Runs on two CPU cores, 2000 iterations of .25 s. Needs mmdet and mmcv with its compiled ops (docs/detection.md).

72.4 box AP and 73.1 mask AP at 67.7 tokens, from a dense backbone (seed 0, 2026-11-28, docs/detection.md).
"""

_base_ = ['msvit_mask_rcnn_coco.py']
num_classes = 6
scenes = dict(
    data_root='data/scenes_coco/', metainfo=dict(classes=('ball', 'box', 'triangle', 'cross', 'disc', 'square'))
)
resize = dict(type='Resize', scale=(96, 96), keep_ratio=True)
train_pipeline = [
    _base_.load,
    _base_.load_shapes,
    resize,
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [_base_.load, resize, _base_.load_shapes, dict(type='PackDetInputs', meta_keys=_base_.meta_keys)]
train_dataloader = dict(batch_size=8, num_workers=1, dataset=dict(pipeline=train_pipeline, **scenes))
val_dataloader = dict(batch_size=8, num_workers=1, dataset=dict(pipeline=test_pipeline, **scenes))
test_dataloader = val_dataloader
val_evaluator = [
    dict(_base_.coco_metric, ann_file='data/scenes_coco/annotations/instances_val2017.json'),
    dict(type='ComplexityMetric'),
]
test_evaluator = val_evaluator
# Shapes of 8 to 36 pixels, about as wide as high: square anchors of 8 to 64, regions below 24 from the map of stride 2.
strides = [2, 4, 8, 16]
anchors = dict(scales=[4], ratios=[1.0], strides=strides)
regions = dict(out_channels=32, featmap_strides=strides, finest_scale=12)
proposals = dict(nms_pre=200, max_per_img=100)
model = dict(
    data_preprocessor=dict(mean=[127.5] * 3, std=[63.75] * 3, pad_size_divisor=16, batch_augments=None),
    backbone=dict(
        arch=dict(_delete_=True, embed_dims=96, num_layers=4, num_heads=3, feedforward_channels=384),
        img_size=(96, 96),
        patch_size=8,
        coarse_patch_size=16,
        drop_path_rate=0.0,
        with_cp=False,
        gate=dict(sample_size=8),
    ),
    neck=dict(in_channels=96, out_channels=32, num_levels=4),
    rpn_head=dict(in_channels=32, feat_channels=32, anchor_generator=anchors),
    roi_head=dict(
        bbox_roi_extractor=regions,
        bbox_head=dict(in_channels=32, fc_out_channels=128, num_classes=num_classes),
        mask_roi_extractor=dict(regions, roi_layer=dict(output_size=7)),
        mask_head=dict(num_convs=2, in_channels=32, conv_out_channels=32, num_classes=num_classes),
    ),
    train_cfg=dict(rpn_proposal=proposals, rcnn=dict(sampler=dict(num=32, pos_fraction=0.5), mask_size=14)),
    test_cfg=dict(rpn=proposals),
)
optim_wrapper = dict(optimizer=dict(lr=1e-3, weight_decay=0.01), clip_grad=dict(max_norm=1.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-2, by_epoch=False, begin=0, end=100),
    dict(type='CosineAnnealingLR', eta_min_ratio=0.1, by_epoch=True, begin=0, end=8, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=8, val_interval=8)
default_hooks = dict(checkpoint=dict(interval=8))
