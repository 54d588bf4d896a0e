"""MSViT from a dense network trained to its end: the host learns a tenth as fast as in from_dense_upernet_scenes.py.

    python tools/train.py configs/studies/transfer/slow_host_upernet_scenes.py --cfg-options load_from=CONTINUED.pth

Runs on two CPU cores. CONTINUED.pth: of studies/baselines/dense_continued_upernet_scenes.py. Gate, coarse pixels and
detail learn as fast as there.

Not trained yet.
"""

_base_ = ['from_dense_upernet_scenes.py']
optim_wrapper = dict(
    optimizer=dict(lr=1e-4),
    paramwise_cfg=dict(
        custom_keys={
            'backbone.gate': dict(lr_mult=30.0),
            'backbone.coarse_pixels': dict(lr_mult=40.0),
            'backbone.detail': dict(lr_mult=40.0),
            'mean_logits': dict(lr_mult=100.0),
            'log_temperatures': dict(lr_mult=10.0),
        }
    ),
)
