"""Token-routed PVTv2-b2 under Mask R-CNN on COCO, PVT's 1x recipe, 8 GPUs x 2 images, budget 0.875. Optional.

    bash tools/dist_train.sh configs/detection/dit_mask_rcnn_coco.py 8

Needs mmdet and mmcv with its compiled ops, which msvit_mm itself does without (docs/detection.md). Start from
converted weights as in configs/dit_upernet_ade20k.py.

Not trained yet.
"""

_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    'mmdet::_base_/datasets/coco_instance.py',
    'mmdet::_base_/schedules/schedule_1x.py',
    'mmdet::_base_/default_runtime.py',
    '../_base_/gates/routes.py',
    '../_base_/runtime/route_schedule.py',
]
custom_imports = dict(
    imports=['msvit_mm', 'msvit_mm.models.detector', 'msvit_mm.visualization.detector'], allow_failed_imports=False
)
coco_metric = {{_base_.val_evaluator}}
val_evaluator = [coco_metric, dict(type='ComplexityMetric')]
test_evaluator = val_evaluator
model = dict(
    type='GatedMaskRCNN',
    backbone=dict(
        _delete_=True,
        type='DynamicTokenRoutingTransformer',
        arch='b2',
        img_size=(800, 1333),
        drop_path_rate=0.1,
        gate={{_base_.gate}},
        init='pvtv2',
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
    gate_loss={{_base_.gate_loss}},
)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=2e-4, weight_decay=1e-4),
    paramwise_cfg=dict(custom_keys={**_base_.route_keys, 'backbone.gate': dict(decay_mult=0.0)}),
)
visualizer = dict(type='GatedDetLocalVisualizer')
custom_hooks = {{_base_.route_hooks}}
