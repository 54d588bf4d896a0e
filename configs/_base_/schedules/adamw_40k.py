"""PVT's schedule for Semantic FPN: AdamW, 40k iterations of 16 images, polynomial decay."""

_base_ = ['adamw_160k.py']
max_iters = 40000
val_interval = 4000
optim_wrapper = dict(optimizer=dict(lr=2e-4, weight_decay=1e-4))
param_scheduler = [dict(type='PolyLR', eta_min=0.0, power=0.9, by_epoch=False, begin=0, end=max_iters)]
train_cfg = dict(max_iters=max_iters, val_interval=val_interval)
default_hooks = dict(checkpoint=dict(interval=val_interval))
