"""MSViT from scratch under Segmenter's mask transformer on generated scenes, target coarse ratio 0.75.

    python tools/train.py configs/msvit_segmenter_scenes.py

Runs on two CPU cores. msvit_segmenter_ade20k.py in small; all but the head as in msvit_upernet_scenes.py.

Not trained yet.
"""

_base_ = ['msvit_upernet_scenes.py']
model = dict(
    backbone=dict(out_indices=[3]),
    neck=None,
    decode_head=dict(
        _delete_=True,
        type='SegmenterMaskTransformerHead',
        in_channels=96,
        channels=96,
        embed_dims=96,
        num_layers=2,
        num_heads=3,
        dropout_ratio=0.0,
        num_classes={{_base_.num_classes}},
        loss_decode={{_base_.model.decode_head.loss_decode}},
    ),
)
