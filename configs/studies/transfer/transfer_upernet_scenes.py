"""A segmentor of generated scenes, fine-tuned around a gate that came from elsewhere and stays as it is.

    python tools/transfer_gate.py SOURCE_CONFIG SOURCE_CHECKPOINT configs/studies/transfer/transfer_upernet_scenes.py \
        gate.pth --target-checkpoint BASE_CHECKPOINT
    python tools/train.py configs/studies/transfer/transfer_upernet_scenes.py --cfg-options load_from=gate.pth

Runs on two CPU cores. BASE_CHECKPOINT: a segmentor that knows mixed scales, from random_ratios_upernet_scenes.py. To
let the gate learn on, ``frozen=False`` and a gate loss.

A gate from classification: 67.28, 72.38 and 68.11 mIoU; from segmentation: 71.01, 76.83 and 70.72 (seeds 0 to 2,
2026-11-20, docs/moving_gates.md).
"""

_base_ = ['../../msvit_upernet_scenes.py']
model = dict(backbone=dict(gate=dict(frozen=True)), gate_loss=None)
max_iters = 800
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [_base_.warmup_lr, dict(_base_.decay_lr, end=max_iters)]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
default_hooks = dict(checkpoint=dict(interval=max_iters))
