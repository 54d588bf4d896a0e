"""Token-routed PVTv2-b0 from scratch on generated scenes: which shapes are present? Multi-label, plain PVTv2's cost.

    python tools/train.py configs/dit_classifier_scenes.py

Not trained yet.
"""

_base_ = [
    '_base_/models/dit_tiny_classifier.py',
    '_base_/datasets/scenes_presence_96x96.py',
    '_base_/schedules/adamw_scratch.py',
    '_base_/classification_runtime.py',
]
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys={'norm': dict(decay_mult=0.0), 'merge_scales': dict(decay_mult=0.0)})
)
custom_hooks = [
    dict(type='GateScheduleHook', warmup=0.0, weights=(0.0, 8.0), ramp=(0.4, 0.6)),
    dict(type='GateStatisticsHook'),
]
default_hooks = dict(
    checkpoint=dict(save_best='multi-label/mAP'), visualization=dict(type='VisualizationHook', _delete_=True)
)
