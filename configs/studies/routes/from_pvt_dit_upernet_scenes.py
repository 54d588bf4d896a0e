"""Token-routed PVTv2-b0 from a trained plain one on generated scenes, in squares of 4 tokens, to cost as much.

    python tools/train.py configs/studies/routes/from_pvt_dit_upernet_scenes.py --cfg-options load_from=PVT.pth

Runs on two CPU cores. PVT.pth: of studies/routes/pvt_upernet_scenes.py. What PVTv2 has not begins as a no-op, open,
and 40 % of the training rest without a budget.

88.19 and 87.56 mIoU at 0.968 and 1.001 of plain PVTv2's cost, where that network trained on for as long has 88.44 and
87.67 (seeds 0 and 1, 2026-11-29, docs/routes.md).
"""

_base_ = [
    '../../_base_/models/dit_tiny_upernet.py',
    '../../_base_/datasets/scenes_96x96.py',
    '../../_base_/schedules/adamw_from_dense.py',
    '../../_base_/runtime/routes.py',
]
model = dict(
    data_preprocessor=dict(size={{_base_.crop_size}}),
    backbone=dict(init='pvtv2', route_patch=4, train_execution='counterfactual'),
    decode_head=dict(loss_decode=dict(class_weight={{_base_.class_weight}})),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={{_base_.route_keys}}))
val_evaluator = [dict(type='IoUMetric', iou_metrics=['mIoU']), dict(type='ComplexityMetric')]
test_evaluator = val_evaluator
