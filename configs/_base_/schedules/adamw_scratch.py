"""A short schedule from scratch for small models: AdamW, linear warm-up, cosine decay to a tenth."""

max_iters = 2500
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-3, betas=(0.9, 0.999), weight_decay=0.01),
    clip_grad=dict(max_norm=1.0),
    paramwise_cfg=dict(
        custom_keys={
            'pos_embed': dict(decay_mult=0.0),
            'ln': dict(decay_mult=0.0),
            'backbone.gate': dict(lr_mult=1.0, decay_mult=0.0),
            'mean_logits': dict(lr_mult=10.0, decay_mult=0.0),
            'log_temperatures': dict(decay_mult=0.0),
        }
    ),
)
warmup_lr = dict(type='LinearLR', start_factor=1e-2, by_epoch=False, begin=0, end=50)
decay_lr = dict(type='CosineAnnealingLR', eta_min_ratio=0.1, by_epoch=False, begin=warmup_lr['end'])
param_scheduler = [warmup_lr, dict(decay_lr, end=max_iters)]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=max_iters)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=max_iters, save_best='mIoU', max_keep_ckpts=1),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='SegVisualizationHook'),
)
auto_scale_lr = dict(enable=False, base_batch_size=16)
