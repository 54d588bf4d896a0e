"""Runtime of segmentors that start from trained weights: the gate learns after a fifth of the iterations.

At the end it is calibrated to the ratio asked for.
"""

_base_ = ['default_runtime.py']
custom_hooks = [
    dict(type='GateScheduleHook', warmup=0.2),
    dict(type='GateCalibrationHook'),
    dict(type='GateStatisticsHook'),
]
