"""Token-routed PVTv2-b0 from scratch under a slim UPerNet: small enough for two CPU cores."""

_base_ = ['../gates/routes_at_full_cost.py', '../heads/slim_upernet.py']
model = dict(
    backbone=dict(
        type='DynamicTokenRoutingTransformer',
        arch='b0',
        img_size=(96, 96),
        drop_path_rate=0.0,
        gate={{_base_.gate}},
        init='scratch',
    ),
    decode_head=dict(in_channels=[32, 64, 160, 256], in_index=[0, 1, 2, 3]),
    gate_loss={{_base_.gate_loss}},
)
