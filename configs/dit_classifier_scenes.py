"""Token-routed PVTv2-b0 from scratch on generated scenes: which shapes are present? Multi-label, plain PVTv2's cost.

    python tools/train.py configs/dit_classifier_scenes.py

Runs on two CPU cores.

Not trained yet.
"""

_base_ = [
    '_base_/models/dit_tiny_classifier.py',
    '_base_/datasets/scenes_presence_96x96.py',
    '_base_/schedules/adamw_scratch.py',
    '_base_/runtime/classification_routes.py',
]
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={{_base_.route_keys}}))
default_hooks = dict(
    checkpoint=dict(save_best='multi-label/mAP'), visualization=dict(type='VisualizationHook', _delete_=True)
)
