"""Token-routed PVTv2-b0 from scratch under UPerNet on generated scenes, to cost as much as plain PVTv2.

    python tools/train.py configs/dit_upernet_scenes.py

Runs on two CPU cores. For other costs, such as 0.6 of plain PVTv2: --cfg-options model.gate_loss.budget=0.6

86.25 and 86.48 mIoU, at a budget of 0.6 84.01 and 84.70 (seeds 0 and 1, 2026-11-21, docs/routes.md).
"""

_base_ = [
    '_base_/models/dit_tiny_upernet.py',
    '_base_/datasets/scenes_96x96.py',
    '_base_/schedules/adamw_scratch.py',
    '_base_/runtime/routes.py',
]
model = dict(
    data_preprocessor=dict(size={{_base_.crop_size}}),
    decode_head=dict(loss_decode=dict(class_weight={{_base_.class_weight}})),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={{_base_.route_keys}}))
val_evaluator = [dict(type='IoUMetric', iou_metrics=['mIoU']), dict(type='ComplexityMetric')]
test_evaluator = val_evaluator
