"""Token-routed PVTv2-b2 under Mask R-CNN on COCO, PVT's 1x recipe, 8 GPUs x 2 images, budget .875. Optional.

    bash tools/dist_train.sh configs/detection/dit_mask_rcnn_coco.py 8

Needs mmdet and mmcv with its compiled ops, which msvit_mm itself does without ("Detection" in README.md). Start from
converted weights as in configs/dit_upernet_ade20k.py.

Not trained yet.
"""

_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    'mmdet::_base_/datasets/coco_instance.py',
    'mmdet::_base_/schedules/schedule_1x.py',
    'mmdet::_base_/default_runtime.py',
]
custom_imports = dict(imports=['msvit_mm', 'msvit_mm.models.detector'], allow_failed_imports=False)
budget = 0.875
model = dict(
    type='GatedMaskRCNN',
    backbone=dict(
        _delete_=True,
        type='DynamicTokenRoutingTransformer',
        arch='b2',
        img_size=(800, 1333),
        drop_path_rate=0.1,
        gate=dict(type='RouteGate'),
        init='pvtv2',
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
    gate_loss=dict(type='BudgetLoss', budget=budget),
)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=2e-4, weight_decay=1e-4),
    paramwise_cfg=dict(
        custom_keys={
            'norm': dict(decay_mult=0.0),
            'merge_scales': dict(decay_mult=0.0),
            'backbone.gate': dict(decay_mult=0.0),
        }
    ),
)
custom_hooks = [
    dict(type='GateScheduleHook', warmup=0.0, weights=(0.0, 8.0), ramp=(0.4, 0.6)),
    dict(type='GateStatisticsHook'),
]
