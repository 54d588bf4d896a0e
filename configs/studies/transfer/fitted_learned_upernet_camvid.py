"""MSViT from a trained dense network on CamVid: a gate fitted to class boundaries first, which then learns on.

    python tools/train.py configs/studies/transfer/fitted_learned_upernet_camvid.py --cfg-options load_from=DENSE.pth

Runs on two CPU cores. DENSE.pth: of studies/baselines/dense_fine_upernet_camvid.py. No warm-up: the gate knows already.
The scores are of gates that tools/fit_gate.py fitted alike before the training, not the hook.

50.41, 50.73 and 49.20 mIoU at 333 tokens, where the same gate frozen has 49.44, 50.95 and 49.87, and one that was not
fitted 49.12, 50.25 and 49.35 (seeds 0, 1 and 2, 2026-11-29, docs/ablations.md).
"""

_base_ = ['from_dense_upernet_camvid.py']
model = dict(
    backbone=dict(gate=dict(frozen=False)),
    gate_loss=dict(_delete_=True, type='BatchShapingLoss', coarse_ratio=_base_.coarse_ratio),
    utility_loss=dict(type='UtilityGateLoss', coarse_ratio=_base_.coarse_ratio),
)
custom_hooks = [
    dict(type='GateFitHook'),  # to boundaries, in a minute
    dict(type='GateScheduleHook', warmup=0.0),
    dict(type='GateCalibrationHook'),
    dict(type='GateStatisticsHook'),
]
