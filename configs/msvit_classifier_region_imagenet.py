"""A gate learned on ImageNet by a small MSViT whose attention stays within regions, from scratch, 20 epochs.

    bash tools/dist_train.sh configs/msvit_classifier_region_imagenet.py 8 --amp

Three layers of DeiT-S's width: what counts is the gate, which tools/transfer_gate.py then moves into a segmentor of any
size. Generalised-mean pooling lets the few regions that show the object speak. Beside it, msvit_classifier_imagenet.py
attends to the whole image, as the paper does.

Not trained yet.
"""

_base_ = ['msvit_classifier_imagenet.py']
model = dict(
    backbone=dict(
        arch=dict(embed_dims=384, num_layers=3, num_heads=6, feedforward_channels=1536, _delete_=True),
        with_cls_token=False,
        attention_scope='region',
        counterfactual_share=1.0,
        drop_path_rate=0.0,
    ),
    neck=dict(type='GeneralizedMeanPooling', p=3.0),
)
optim_wrapper = dict(optimizer=dict(lr=1e-3))  # from scratch
