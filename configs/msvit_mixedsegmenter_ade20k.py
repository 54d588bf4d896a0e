"""MSViT (ViT-S/16) on ADE20K with Segmenter's mask transformer on the tokens, so that the decoder shrinks with them.

    bash tools/dist_train.sh configs/msvit_mixedsegmenter_ade20k.py 8 --amp

8 GPUs x 1 image. Otherwise msvit_segmenter_ade20k.py, pretrained weights included; detail joins the class scores.

Not trained yet.
"""

_base_ = ['msvit_segmenter_ade20k.py']
model = dict(
    backbone=dict(out_type='tokens', detail=None),
    decode_head=dict(type='MixedScaleMaskTransformerHead', detail=dict(patch_size=16, **_base_.detail)),
)
