"""MSViT from a trained dense network on Scenes: a gate fitted to class boundaries first, which then learns on.

    python tools/train.py configs/studies/transfer/fitted_learned_upernet_scenes.py --cfg-options load_from=DENSE.pth

Runs on two CPU cores. DENSE.pth: of studies/baselines/dense_fine_upernet_scenes.py. No warm-up: the gate knows already.
The scores are of gates that tools/fit_gate.py fitted alike before the training, not the hook.

78.03 and 78.29 mIoU at 63 tokens, 78.86 and 78.97 at 69, where a gate that was not fitted has 78.27 and 78.10, 79.19
and 78.95 (seeds 0 and 1, 2026-11-29, docs/ablations.md).
"""

_base_ = ['from_dense_upernet_scenes.py']
gate = dict(_delete_=True, type='ContextGate', coarse_patch_size=16, initial_ratio=0.75)
model = dict(backbone=dict(gate=gate))
custom_hooks = [
    dict(type='GateFitHook'),  # to boundaries, in a minute
    dict(type='GateScheduleHook', warmup=0.0),
    dict(type='GateCalibrationHook'),
    dict(type='GateStatisticsHook'),
]
