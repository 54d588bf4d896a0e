"""Runtime of segmentors over token routes: the common one with the schedule of their budget."""

_base_ = ['default_runtime.py', 'route_schedule.py']
custom_hooks = {{_base_.route_hooks}}
