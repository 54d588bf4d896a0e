"""DeiT-S with a learned gate under UPerNet, mmsegmentation's settings for plain ViTs, target coarse ratio 0.75."""

_base_ = ['../gates/learned.py', '../weights/deit_small.py', '../heads/upernet.py']
model = dict(
    backbone=dict(
        type='MSViT',
        arch='deit-small',
        img_size=(512, 512),
        patch_size=16,
        coarse_patch_size=32,
        out_indices=[2, 5, 8, 11],
        drop_path_rate=0.1,
        gate={{_base_.gate}},
        **_base_.coarse_pixels,
        detail=dict(**_base_.detail, levels=(0, 1)),  # of which the neck keeps every cell
        init_cfg={{_base_.pretrained}},
    ),
    neck=dict(type='MultiLevelNeck', in_channels=[384, 384, 384, 384], out_channels=384, scales=[4, 2, 1, 0.5]),
    decode_head=dict(in_channels=[384, 384, 384, 384]),
    auxiliary_head=dict(in_channels=384, in_index=3),
    gate_loss={{_base_.gate_loss}},
    utility_loss=dict(**_base_.utility_loss, every=4),  # the head is heavy
)
