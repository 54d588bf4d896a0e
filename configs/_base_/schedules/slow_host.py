"""From a network trained to its end on: the host learns a tenth as fast as in adamw_from_dense.py, the rest as fast."""

slow_host = dict(
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
