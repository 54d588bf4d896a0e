"""A gate learned on ImageNet by a small MSViT whose attention stays within regions, from scratch, 20 epochs.

    bash tools/dist_train.sh configs/msvit_classifier_region_imagenet.py 8 --amp

8 GPUs x 128 images. Three layers of DeiT-S's width: what counts is the gate, which tools/transfer_gate.py then moves
into a segmentor of any size. Beside it, msvit_classifier_imagenet.py attends to the whole image, as the paper does.

Not trained yet.
"""

_base_ = ['msvit_classifier_imagenet.py', '_base_/gates/within_regions.py']
model = dict(
    backbone=dict(
        arch=dict(embed_dims=384, num_layers=3, num_heads=6, feedforward_channels=1536, _delete_=True),
        with_cls_token=False,
        drop_path_rate=0.0,
        init_cfg=None,
        **_base_.within_regions.backbone,
    ),
    neck={{_base_.within_regions.neck}},
    gate_loss={{_base_.within_regions.gate_loss}},
)
optim_wrapper = dict(optimizer=dict(lr=1e-3))  # from scratch
custom_hooks = {{_base_.within_regions_hooks}}
