"""Fine-tune a CamVid segmentor around a gate that came from elsewhere and stays as it is; runs on two CPU cores.

    python tools/transfer_gate.py SOURCE_CONFIG SOURCE_CHECKPOINT configs/transfer_upernet_camvid.py gate.pth \
        --target-checkpoint BASE_CHECKPOINT
    python tools/train.py configs/transfer_upernet_camvid.py --cfg-options load_from=gate.pth

BASE_CHECKPOINT: a segmentor that knows mixed scales, from random_ratios_upernet_camvid.py. The gate has the layout of
msvit_upernet_camvid.py; transfer_scenes_upernet_camvid.py takes one from Scenes.
"""

_base_ = ['msvit_upernet_camvid.py']
model = dict(backbone=dict(gate=dict(frozen=True)), gate_loss=None)
max_iters = 500
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-2, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', eta_min_ratio=0.1, by_epoch=False, begin=50, end=max_iters),
]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
default_hooks = dict(checkpoint=dict(interval=max_iters))
