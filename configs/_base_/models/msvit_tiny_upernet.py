"""A ViT of 4 layers and 96 channels on patches of 8 and 16 pixels under a slim UPerNet, for two CPU cores."""

_base_ = ['../gates/learned.py', '../heads/slim_upernet.py']
model = dict(
    backbone=dict(
        type='MSViT',
        arch=dict(embed_dims=96, num_layers=4, num_heads=3, feedforward_channels=384),
        img_size=(96, 96),
        patch_size=8,
        coarse_patch_size=16,
        with_cls_token=False,
        out_indices=[1, 2, 3],
        gate=dict(**_base_.gate, sample_size=8),
    ),
    neck=dict(type='MultiLevelNeck', in_channels=[96, 96, 96], out_channels=16, scales=[2, 1, 0.5]),
    decode_head=dict(in_channels=[16, 16, 16], in_index=[0, 1, 2]),
    gate_loss={{_base_.gate_loss}},
)
