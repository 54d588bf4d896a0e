"""mmsegmentation's schedule for Segmenter: SGD without weight decay, 160k iterations of 8 images, polynomial decay."""

_base_ = ['adamw_160k.py']
optim_wrapper = dict(optimizer=dict(_delete_=True, type='SGD', lr=1e-3, momentum=0.9, weight_decay=0.0))
decay_lr = dict(type='PolyLR', eta_min=1e-4, power=0.9, by_epoch=False, begin=0)
param_scheduler = [dict(decay_lr, end=_base_.max_iters)]
auto_scale_lr = dict(base_batch_size=8)
