"""Token-routed PVTv2-b2 under UPerNet, to cost 0.875 of plain PVTv2."""

_base_ = ['../gates/routes.py', '../heads/upernet.py']
model = dict(
    backbone=dict(
        type='DynamicTokenRoutingTransformer',
        arch='b2',
        img_size=(512, 512),
        drop_path_rate=0.1,
        gate={{_base_.gate}},
        init='pvtv2',
    ),
    decode_head=dict(in_channels=[64, 128, 320, 512]),
    auxiliary_head=dict(in_channels=320),
    gate_loss={{_base_.gate_loss}},
)
