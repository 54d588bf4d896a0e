"""A segmentor of CamVid, fine-tuned around a gate that came from elsewhere and stays as it is.

    python tools/transfer_gate.py SOURCE_CONFIG SOURCE_CHECKPOINT configs/studies/transfer/transfer_upernet_camvid.py \
        gate.pth --target-checkpoint BASE_CHECKPOINT
    python tools/train.py configs/studies/transfer/transfer_upernet_camvid.py --cfg-options load_from=gate.pth

Runs on two CPU cores. BASE_CHECKPOINT: a segmentor that knows mixed scales, from random_ratios_upernet_camvid.py. The
gate has the layout of msvit_upernet_camvid.py; transfer_scenes_upernet_camvid.py takes one from Scenes.

A gate from label boundaries: 36.37 mIoU; from segmentation: 35.36; both after 400 of 500 iterations, on a base of 1000
(seed 0, 2026-11-20, docs/moving_gates.md).
"""

_base_ = ['../../msvit_upernet_camvid.py']
model = dict(backbone=dict(gate=dict(frozen=True)), gate_loss=None)
max_iters = 500
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [_base_.warmup_lr, dict(_base_.decay_lr, end=max_iters)]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
default_hooks = dict(checkpoint=dict(interval=max_iters))
