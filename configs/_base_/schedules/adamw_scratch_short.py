"""The schedule from scratch for small models, two fifths as long: for studies of many networks."""

_base_ = ['adamw_scratch.py']
max_iters = 1000
param_scheduler = [{{_base_.warmup_lr}}, dict(_base_.decay_lr, end=max_iters)]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
default_hooks = dict(checkpoint=dict(interval=max_iters))
