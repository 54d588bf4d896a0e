"""Segmenter's own schedule for Cityscapes: half as long as sgd_160k.py, at ten times its learning rate."""

_base_ = ['sgd_160k.py']
max_iters = 80000
val_interval = 8000
optim_wrapper = dict(optimizer=dict(lr=1e-2))
param_scheduler = [dict(_base_.decay_lr, end=max_iters)]
train_cfg = dict(max_iters=max_iters, val_interval=val_interval)
default_hooks = dict(checkpoint=dict(interval=val_interval))
