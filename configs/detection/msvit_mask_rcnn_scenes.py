"""A small MSViT from scratch under a small Mask R-CNN on generated scenes, target coarse ratio 0.75. Optional.

    python tools/train.py configs/detection/msvit_mask_rcnn_scenes.py

Runs on two CPU cores, on what `msvit scenes-to-coco data/scenes_coco` writes. Needs mmdet and mmcv with its compiled
ops (docs/detection.md).

Not trained yet.
"""

_base_ = ['msvit_mask_rcnn_coco.py']
num_classes = 6
scenes = dict(
    data_root='data/scenes_coco/', metainfo=dict(classes=('ball', 'box', 'triangle', 'cross', 'disc', 'square'))
)
resize = dict(type='Resize', scale=(96, 96), keep_ratio=True)
train_pipeline = [
    _base_.load,
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    resize,
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [_base_.load, resize, dict(type='PackDetInputs', meta_keys=_base_.meta_keys)]
train_dataloader = dict(batch_size=8, dataset=dict(pipeline=train_pipeline, **scenes))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline, **scenes))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file='data/scenes_coco/annotations/instances_val2017.json')
test_evaluator = val_evaluator
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
    neck=dict(in_channels=96, out_channels=64),
    rpn_head=dict(in_channels=64, feat_channels=64, anchor_generator=dict(scales=[4], strides=[2, 4, 8, 16, 32])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64, featmap_strides=[2, 4, 8, 16]),
        bbox_head=dict(in_channels=64, fc_out_channels=128, num_classes=num_classes),
        mask_roi_extractor=dict(out_channels=64, featmap_strides=[2, 4, 8, 16]),
        mask_head=dict(in_channels=64, conv_out_channels=64, num_classes=num_classes),
    ),
)
