"""When the budget of routes pulls, and which of their parameters do not decay; for the runtimes and optimizers below.

The budget rests for 40 % of training, while what PVTv2 has not learns to be of use; then its weight rises to 8.
"""

route_hooks = [
    dict(type='GateScheduleHook', warmup=0.0, weights=(0.0, 8.0), ramp=(0.4, 0.6)),
    dict(type='GateStatisticsHook'),
]
route_keys = {'norm': dict(decay_mult=0.0), 'merge_scales': dict(decay_mult=0.0)}
