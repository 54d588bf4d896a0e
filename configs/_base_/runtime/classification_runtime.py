"""Runtime of classification: the common one with mmpretrain's scope and visualizer, without augmented tests."""

_base_ = ['default_runtime.py']
default_scope = 'mmpretrain'
visualizer = dict(type='UniversalVisualizer')
tta_model = None
