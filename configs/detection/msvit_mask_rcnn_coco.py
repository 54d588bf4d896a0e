"""MSViT (ViT-B) under Mask R-CNN on COCO after ViTDet, 8 GPUs x 2 images, target coarse ratio 0.75. Optional.

    bash tools/dist_train.sh configs/detection/msvit_mask_rcnn_coco.py 8

Needs mmdet and mmcv with its compiled ops, which msvit_mm itself does without (docs/detection.md). As in ViTDet a plain
backbone, a simple feature pyramid, and crops of 1024x1024 at random scales: the gate loss wants one size. Attention is
global in every layer, on the tokens that the gate leaves: windows would cut regions. Starts from DeiT-B of mmpretrain's
model zoo, downloaded the first time; ``--cfg-options model.backbone.init_cfg=None`` from random weights.

Not trained yet.
"""

_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    'mmdet::_base_/datasets/coco_instance.py',
    'mmdet::_base_/schedules/schedule_1x.py',
    'mmdet::_base_/default_runtime.py',
    '../_base_/gates/learned.py',
    '../_base_/weights/deit_base.py',
]
custom_imports = dict(
    imports=['msvit_mm', 'msvit_mm.models.detector', 'msvit_mm.visualization.detector'], allow_failed_imports=False
)
crop_size = (1024, 1024)
load = dict(type='LoadImageFromFile')
load_shapes = dict(type='LoadAnnotations', with_bbox=True, with_mask=True)
train_pipeline = [
    load,
    load_shapes,
    dict(type='RandomResize', scale=crop_size, ratio_range=(0.1, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, recompute_bbox=True, allow_negative_crop=True),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(1e-2, 1e-2)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
meta_keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
test_pipeline = [
    load,
    dict(type='Resize', scale=crop_size, keep_ratio=True),
    load_shapes,
    dict(type='PackDetInputs', meta_keys=meta_keys),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
coco_metric = {{_base_.val_evaluator}}
val_evaluator = [coco_metric, dict(type='ComplexityMetric')]
test_evaluator = val_evaluator
model = dict(
    type='GatedMaskRCNN',
    data_preprocessor=dict(
        batch_augments=[dict(type='BatchFixedSizePad', size=crop_size, img_pad_value=0, pad_mask=True)]
    ),
    backbone=dict(
        _delete_=True,
        type='MSViT',
        arch='base',
        img_size=crop_size,
        patch_size=16,
        coarse_patch_size=32,
        with_cls_token=False,
        drop_path_rate=0.1,
        with_cp=True,
        gate={{_base_.gate}},
        init_cfg={{_base_.pretrained}},
    ),
    neck=dict(_delete_=True, type='SimpleFeaturePyramid', in_channels=768, out_channels=256, num_levels=5),
    gate_loss={{_base_.gate_loss}},
)
keys = {
    'pos_embed': dict(decay_mult=0.0),
    'backbone.gate': dict(lr_mult=3.0, decay_mult=0.0),
    'mean_logits': dict(lr_mult=10.0, decay_mult=0.0),
    'log_temperatures': dict(decay_mult=0.0),
}
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-4, weight_decay=0.1),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0, custom_keys=keys),
)
visualizer = dict(type='GatedDetLocalVisualizer')
custom_hooks = [dict(type='GateScheduleHook'), dict(type='GateStatisticsHook')]
