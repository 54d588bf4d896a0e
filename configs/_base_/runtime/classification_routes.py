"""Runtime of classifiers over token routes: that of classification with the schedule of their budget."""

_base_ = ['classification_runtime.py', 'route_schedule.py']
custom_hooks = {{_base_.route_hooks}}
