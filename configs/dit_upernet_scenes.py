"""Token-routed PVTv2-b0 from scratch under UPerNet on generated scenes, to cost as much as plain PVTv2.

    python tools/train.py configs/dit_upernet_scenes.py

For other costs, such as .6 of plain PVTv2: --cfg-options model.gate_loss.budget=0.6

docs/benchmarks.md records budgets 1.0 and .6, seeds 0 and 1.
"""

_base_ = [
    '_base_/models/dit_tiny_upernet.py',
    '_base_/datasets/scenes_96x96.py',
    '_base_/schedules/adamw_scratch.py',
    '_base_/default_runtime.py',
]
model = dict(
    data_preprocessor=dict(size={{_base_.crop_size}}),
    # shapes cover 1 to 2 % of the pixels each, areas over 20 %
    decode_head=dict(loss_decode=dict(class_weight=[1.0] * 4 + [3.0] * 6)),
)
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys={'norm': dict(decay_mult=0.0), 'merge_scales': dict(decay_mult=0.0)})
)
custom_hooks = [
    dict(type='GateScheduleHook', warmup=0.0, weights=(0.0, 8.0), ramp=(0.4, 0.6)),
    dict(type='GateStatisticsHook'),
]
val_evaluator = [dict(type='IoUMetric', iou_metrics=['mIoU']), dict(type='ComplexityMetric')]
test_evaluator = val_evaluator
