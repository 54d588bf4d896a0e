"""Runtime of segmentors that start from pretrained weights: the gate learns after a fifth of the iterations."""

_base_ = ['default_runtime.py']
custom_hooks = [dict(type='GateScheduleHook', warmup=0.2), dict(type='GateStatisticsHook')]
