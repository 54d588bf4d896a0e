"""Token-routed PVTv2-b2 under UPerNet on ADE20K, crops of 512x512, 160k iterations, 8 GPUs x 2 images, budget .875.

    bash tools/dist_train.sh configs/dit_upernet_ade20k.py 8 --amp

Start from PVTv2-b2 (timm's ``pvt_v2_b2`` or the authors' ``pvt_v2_b2.pth``), converted first:

    python tools/convert_checkpoint.py pvt_v2_b2.pth dit-b2.pth --config configs/dit_upernet_ade20k.py
    --cfg-options model.backbone.init_cfg.checkpoint=dit-b2.pth model.backbone.init_cfg.type=Pretrained

The budget rests for the first 40 %, while what PVTv2 has not learns to be of use.

Not trained yet.
"""

_base_ = [
    '_base_/models/dit_upernet.py',
    '_base_/datasets/ade20k_512x512.py',
    '_base_/schedules/adamw_160k.py',
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
