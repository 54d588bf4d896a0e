"""MSViT on generated scenes with a learned pattern that is the same for all images, target coarse ratio 0.75.

    python tools/train.py configs/studies/baselines/static_upernet_scenes.py

Runs on two CPU cores. A baseline of msvit_upernet_scenes.py. Batch-Shaping asks each position to vary over images,
which a pattern cannot: a ratio loss.

Not trained yet.
"""

_base_ = ['../losses/ratio_l1_upernet_scenes.py']
model = dict(
    backbone=dict(gate=dict(_delete_=True, type='StaticGate', grid_size=(6, 6), initial_ratio={{_base_.coarse_ratio}}))
)
# 36 plain logits, which have further to go than a perceptron's weights
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'backbone.gate': dict(lr_mult=10.0)}))
