"""The schedule of small models from a trained dense network on: shorter, slower, what is new several times as fast."""

_base_ = ['adamw_scratch.py']
max_iters = 1000
optim_wrapper = dict(
    optimizer=dict(lr=1e-3),
    paramwise_cfg=dict(
        custom_keys={
            'backbone.gate': dict(lr_mult=3.0),
            'backbone.coarse_pixels': dict(lr_mult=4.0),
            'backbone.detail': dict(lr_mult=4.0),
        }
    ),
)
param_scheduler = [{{_base_.warmup_lr}}, dict(_base_.decay_lr, end=max_iters)]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
default_hooks = dict(checkpoint=dict(interval=max_iters))
