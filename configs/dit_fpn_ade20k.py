"""Token-routed PVTv2-b2 under Semantic FPN on ADE20K, PVT's recipe: 512x512, 40k iterations, 8 GPUs x 2, budget .875.

    bash tools/dist_train.sh configs/dit_fpn_ade20k.py 8 --amp

Start from converted weights as in dit_upernet_ade20k.py.

Not trained yet.
"""

_base_ = [
    '_base_/models/dit_fpn.py',
    '_base_/datasets/ade20k_512x512.py',
    '_base_/schedules/adamw_40k.py',
    '_base_/default_runtime.py',
]
model = dict(data_preprocessor=dict(size={{_base_.crop_size}}))
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys={'norm': dict(decay_mult=0.0), 'merge_scales': dict(decay_mult=0.0)})
)
custom_hooks = [
    dict(type='GateScheduleHook', warmup=0.0, weights=(0.0, 8.0), ramp=(0.4, 0.6)),
    dict(type='GateStatisticsHook'),
]
